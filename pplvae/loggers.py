"""Where the numbers of each epoch may go: pass one of these, or several, as `fit(on_epoch=...)`.

None of what they write to is a dependency of the package; any function of `(epoch, values)` would do as well.
"""

from functools import partial
from pathlib import Path
from typing import Any

from pplvae.isolate import generators_kept, unwarned


class TensorBoard:
    """Writes every number of an epoch to a folder that `tensorboard --logdir FOLDER` shows.

    Args:
        folder: in which files of events are written; a fit that is resumed adds one.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            with unwarned(), generators_kept():
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{str(folder)!r} would be written by TensorBoard: `pip install 'pplvae[tensorboard]'`.",
                name="tensorboard",
            ) from error
        self._begin, self._writer = partial(SummaryWriter, str(folder)), None

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Write the numbers of an epoch; they are on the disk when it returns."""
        if self._writer is None:  # now: a fit that is refused leaves no folder
            self._writer = self._begin()
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()


class MLflow:
    """Logs every number of an epoch as a metric of an MLflow run.

    Args:
        run_id: of the run; by default the one that is active, or a new one.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(self, run_id: str | None = None) -> None:
        try:
            with unwarned(), generators_kept():
                import mlflow  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ModuleNotFoundError("Runs are logged by MLflow: `pip install mlflow`.", name="mlflow") from error
        self._mlflow, self._run_id = mlflow, run_id

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Log the numbers of an epoch."""
        self._mlflow.log_metrics(values, step=epoch, run_id=self._run_id)


class WandB:
    """Logs every number of an epoch to a run of Weights & Biases.

    Args:
        run: from `wandb.init`; whoever has begun it ends it.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Log the numbers of an epoch."""
        self._run.log(values, step=epoch, commit=True)  # else they would wait for those of the next


class Trackio:
    """Logs every number of an epoch to a run of trackio.

    Args:
        run: from `trackio.init`; whoever has begun it ends it.
    """

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Log the numbers of an epoch."""
        self._run.log(values, step=epoch)
