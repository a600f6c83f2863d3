"""Every test: float64, fixed seeds, one thread, and a process that is left as it was found.

Test processes with several threads would wait for each other.
"""

import os
import signal
import tempfile
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch.distributions import Distribution
from torch.nn.modules import module
from typecheck import watch

collect_ignore = ["files/make_anndata.py"]  # a script for old versions of anndata
watch("pplvae")
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()  # what tests name is not what the user has named
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

_OF_OTHERS = (
    "PYTEST_",
    "TORCHINDUCTOR_",
    "_TORCHINDUCTOR_",
    "KMP_",
)  # what other libraries set in the environment as they come in

# Files, and single tests, that find the most faults a second: closed forms first, and every room of the package once.
QUICK = {
    "contracts/test_arguments.py::test_arguments_come_in_one_order",
    "contracts/test_arguments.py::test_every_argument_is_explained",
    "contracts/test_arguments.py::test_keywords_of_one_name_are_explained_alike",
    "contracts/test_arguments.py::test_keywords_of_one_name_have_one_default",
    "contracts/test_guides.py::test_density_integrates_to_one",
    "contracts/test_guides.py::test_shapes_and_dtype",
    "contracts/test_guides.py::test_every_guide_by_name",
    "contracts/test_guides.py::test_exact_posterior_has_constant_weights",
    "contracts/test_likelihoods.py::test_density_is_that_of_another_library",
    "contracts/test_likelihoods.py::test_every_likelihood_by_name",
    "contracts/test_objectives.py::test_no_noise_where_the_guide_is_the_posterior",
    "contracts/test_objectives.py::test_free_bits_are_not_charged",
    "contracts/test_priors.py::test_integrates_to_one_and_draws_what_it_says",
    "contracts/test_priors.py::test_every_prior_by_name",
    "test_adam.py",
    "test_architecture.py",
    "test_attribution.py::test_advice_on_numbers",
    "test_attribution.py::test_causes_on_numbers",
    "test_attribution.py::test_an_encoder_stopped_early_wants_training_alone",
    "test_calibration.py::test_the_exact_posterior_is_calibrated",
    "test_capture.py::test_the_same_bits_on_other_inputs",
    "test_capture.py::test_draws_are_those_of_the_function",
    "test_cli.py::test_fit_compare_report_of_a_model_of_ones_own",
    "test_checking.py::test_a_comment_leaves_a_finding_out",
    "test_checking.py::test_every_code_is_planted",
    "test_docs.py::test_every_code_has_a_page_with_its_own_words",
    "test_checking.py::test_what_is_planted_is_found_with_its_line",
    "test_drafting.py::test_a_mixed_table_has_the_density_that_is_meant",
    "test_drafting.py::test_the_graph_of_a_pair",
    "test_drafting.py::test_the_kind_of_values",
    "test_single_precision.py",
    "test_climb.py",
    "test_data.py::test_bad_rows",
    "test_data.py::test_files",
    "test_data_files.py",
    "test_dependencies.py",
    "test_directed_models.py::test_the_chain_rule_is_the_product_of_its_conditionals",
    "test_directed_models.py::test_the_markov_chain_sums_to_one_whatever_the_padding",
    "test_discrete.py::test_draws_have_their_probabilities",
    "test_discrete.py::test_states",
    "test_evidence.py::test_exact_guide_needs_no_annealing",
    "test_failures.py",
    "test_families.py",
    "test_fit.py::test_a_full_batch_step_is_that_of_pyro",
    "test_fit.py::test_interrupted_and_resumed_equals_uninterrupted",
    "test_fit.py::test_nonfinite_loss_stops_and_says_where",
    "test_fit.py::test_run_folder_brings_the_fit_back",
    "test_from_torch.py::test_gap_of_a_linear_vae_is_that_of_its_closed_form",
    "test_from_torch.py::test_what_an_encoder_means_is_not_guessed",
    "test_from_torch.py::test_what_the_encoder_says_is_the_guide",
    "test_gaps.py::test_lambda_of_the_encoder_and_of_each_row",
    "test_gaps.py::test_posterior_means_of_a_poor_guide_are_corrected",
    "test_groups.py::test_p_is_that_of_all_permutations",
    "test_groups.py::test_statistic_is_welchs",
    "test_ica.py::test_the_guide_is_the_posterior_of_gaussian_sources",
    "test_inspection.py",
    "test_iterative.py::test_ascent_reaches_the_best_factorised",
    "test_ladder.py::test_maps_are_invertible_with_their_own_jacobian",
    "test_latent_use.py::test_kl_of_gaussians_is_exact",
    "test_latent_use.py::test_rate_and_distortion_make_the_elbo",
    "test_linear.py",
    "test_mean_field.py::test_helpers_of_a_guide_count_as_in_trace_elbo",
    "test_noise.py",
    "test_outliers.py::test_area_is_the_share_of_pairs",
    "test_parts.py::test_checksums_see_every_bit_and_its_place",
    "test_parts.py::test_a_feed_gives_every_row_once_to_one_rank_and_in_order",
    "test_parts.py::test_a_lease_is_one_processs_until_it_gives_no_more_signs",
    "test_parts.py::test_noise_of_a_step_belongs_to_the_row_and_its_place",
    "test_paired.py::test_statistics_are_those_of_scipys_paired_test",
    "test_programs.py::test_elbo_is_that_of_pyro",
    "test_result.py",
    "test_round_trip.py::test_another_weight_is_told",
    "test_rows.py",
    "test_run_folders.py::test_files_of_another_run_are_refused",
    "test_simulation.py::test_latents_and_rows_of_a_linear_model_have_their_joint_moments",
    "test_site_checks.py",
    "test_steps.py::test_fit_says_what_ran_its_steps",
    "test_structured_models.py::test_categories_summed_exactly",
    "test_structured_models.py::test_context_exactly",
    "test_structured_models.py::test_evidence_of_observed_entries_exactly",
}


def pytest_collection_modifyitems(items):
    for item in items:
        test = item.nodeid.split("[")[0].removeprefix("tests/")
        if QUICK & {test, test.split("::")[0]}:
            item.add_marker(pytest.mark.quick)


def flags():
    """What neither a call nor a whole test may leave changed."""
    environment = {f"${name}": value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)}
    return environment | {
        "validate": Distribution._validate_args,
        "settings": pyro.settings.get(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "handlers": len(_PYRO_STACK),
        "hooks": len(module._global_forward_pre_hooks),
        "filters": [entry for entry in warnings.filters if not _is_a_librarys(entry)],
    }


def _is_a_librarys(entry):
    """Some filter warnings of their own, by text or class, as they come in; xarray does whenever it reads a file."""
    _, text, category, *_ = entry
    return text is not None or category.__module__.split(".")[0] not in ("builtins", "pplvae")


def process_state():
    """What a call must leave as it found it (`random` is watched in test_isolate: the type checker itself draws)."""
    store = pyro.get_param_store().get_state()
    return flags() | {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": (np.random.get_state()[1].tolist(), np.random.get_state()[2]),
        "store": {name: id(value) for name, value in store["params"].items()},
    }


@pytest.fixture(autouse=True)
def own_process_state():
    """Float64, seeds and an empty store for each test; a test that leaves a flag changed fails."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    np.random.seed(0)
    pyro.clear_param_store()
    before = flags()
    yield
    after = flags()
    restore(before)
    changed = {name: (before.get(name), after.get(name)) for name in before | after}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    assert not changed, f"the test, or what it calls, left these changed (before, after): {changed}"


@pytest.fixture
def single_precision():
    """As users have it."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def restore(before):
    """So that the tests after one that leaves flags changed do not fail too."""
    pyro.settings.set(**before["settings"])
    Distribution.set_default_validate_args(before["validate"])
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(before["grad"])
    torch.set_num_threads(before["threads"])
    warnings.filters[:] = before["filters"]
    pyro.clear_param_store()
