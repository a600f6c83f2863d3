"""Every finding of a program, by code: how bad it is, what it means, a line that is wrong and one that is right.

`docs/findings.py` writes the pages of `docs/findings` from it. A code keeps its meaning from version to version.
"""

from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class Code(NamedTuple):
    """What a code stands for.

    Attributes:
        severity: "error": `fit` or `compare` would refuse the pair, or be wrong; "warning": hardly what was meant;
            "note": good to know.
        meaning: in sentences.
        wrong: lines that have it.
        right: what to write instead.
    """

    severity: Severity
    meaning: str
    wrong: str
    right: str


CODES: dict[str, Code] = {
    "PV201": Code(
        "error",
        "A program raises on three or on five of the rows. Sizes must come from the rows that are passed in, and "
        "parameters of distributions must be numbers that these take.",
        "dist.Normal(loc, raw)  # raw may be negative",
        "dist.Normal(loc, raw.exp())",
    ),
    "PV202": Code(
        "error",
        "The rows have another dtype than the weights of the programs: numbers in float64, as NumPy makes them, meet "
        "weights in float32.",
        "rows = torch.from_numpy(array)  # float64",
        "rows = torch.from_numpy(array).float()",
    ),
    "PV203": Code(
        "error",
        "Rows, weights and the tensors that a program makes lie on different devices.",
        "prior = dist.Normal(torch.zeros(2), 1.0)",
        "prior = dist.Normal(v.new_zeros(2), 1.0)",
    ),
    "PV204": Code(
        "error",
        "At a site the rows do not lie where the plate expects them. All axes right of the rows belong to one row: "
        "they are event dimensions.",
        'pyro.sample("v", dist.Normal(decoder(h), 1.0), obs=v)',
        'pyro.sample("v", dist.Normal(decoder(h), 1.0).to_event(1), obs=v)',
    ),
    "PV205": Code(
        "error",
        "The observed value and its distribution have different shapes, and torch broadcasts them: every row is held "
        "against the parameters of all rows.",
        'pyro.sample("y", dist.Normal(net(h).squeeze(-1), 1.0), obs=y)  # y has shape (rows, 1)',
        'pyro.sample("y", dist.Normal(net(h).squeeze(-1), 1.0), obs=y.squeeze(-1))',
    ),
    "PV206": Code(
        "error",
        "Some rows have sites that others lack. A row's ELBO would be one of another model than its neighbour's.",
        'for t in range(int(lengths.max())):\n    pyro.sample(f"v_{t}", dist.Normal(h, 1.0), obs=v[:, t])',
        "for t in range(v.shape[1]):\n    with pyro.poutine.mask(mask=t < lengths):\n"
        '        pyro.sample(f"v_{t}", dist.Normal(h, 1.0), obs=v[:, t])',
    ),
    "PV207": Code(
        "error",
        "A value has other sizes than the distribution that it is held against: the decoder gives a row more "
        "numbers, or fewer, than it has, or the same in another shape.",
        "decoder = nn.Linear(latent, 783)  # v has 784 columns",
        "decoder = nn.Linear(latent, v.shape[1])",
    ),
    "PV210": Code(
        "error",
        "The guide lacks a latent of the model, or has one that the model does not sample. What is missing would be "
        "drawn from the prior, which bounds nothing. (Discrete latents with few states may be left to the model.)",
        'pyro.sample("z", dist.Normal(loc, scale).to_event(1))  # "h" in the model',
        'pyro.sample("h", dist.Normal(loc, scale).to_event(1))',
    ),
    "PV211": Code(
        "error",
        "A latent has another shape, or other event dimensions, in the guide than in the model.",
        'pyro.sample("h", dist.Normal(loc, scale))  # guide; the model has .to_event(1)',
        'pyro.sample("h", dist.Normal(loc, scale).to_event(1))',
    ),
    "PV212": Code(
        "error",
        "The guide draws values at which the prior is 0, so that the ELBO is minus infinity.",
        'pyro.sample("h", dist.Normal(loc, scale))  # the prior is Beta',
        'pyro.sample("h", dist.Beta(a.exp(), b.exp()))',
    ),
    "PV213": Code(
        "error",
        "A latent is masked in one program and not in the other: log p and log q are then of different numbers.",
        'with pyro.poutine.mask(mask=used):  # in the model alone\n    pyro.sample("h", prior)',
        'with pyro.poutine.mask(mask=used):  # in both\n    pyro.sample("h", prior)',
    ),
    "PV214": Code(
        "error",
        "No row can be given its own λ: the latent has no gradient through its draws and too many states, or the "
        "parameters of its distribution cannot be told from outside. `fit` may work; gaps cannot be measured.",
        'loc = encoder(v)\npyro.sample("h", dist.TransformedDistribution(base, [flow.condition(loc)]))',
        'loc = pplvae.local("loc", encoder(v))\n'
        'pyro.sample("h", dist.TransformedDistribution(base, [flow.condition(loc)]))',
    ),
    "PV220": Code(
        "error",
        "A program has no plate. Its rows cannot be told apart, and nothing says that they are independent.",
        'pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))',
        'with pyro.plate("data", len(v)):\n    pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))',
    ),
    "PV221": Code(
        "error",
        "No plate has the number of rows that are passed in as its size: none is over the rows, or its size is written "
        "down.",
        'with pyro.plate("data", 1000):',
        'with pyro.plate("data", len(v)):',
    ),
    "PV222": Code(
        "error",
        "The plate over the rows is a Python loop: a site for every row, which no other number of rows has.",
        'for i in pyro.plate("data", len(v)):\n    pyro.sample(f"v_{i}", dist.Normal(h, 1.0), obs=v[i])',
        'with pyro.plate("data", len(v)):\n    pyro.sample("v", dist.Normal(h, 1.0), obs=v)',
    ),
    "PV223": Code(
        "error",
        "A plate takes some of its members at random, others in every run. Minibatches of rows are made outside the "
        "program; other plates are told which members they hold.",
        'with pyro.plate("data", len(v), subsample_size=100) as index:',
        'with pyro.plate("data", len(v)):',
    ),
    "PV224": Code(
        "warning",
        "A plate that is told how many of its members it holds, and not which, permutes all of them at every entry "
        "(27 ms for a million). pplvae says which; Pyro's own `SVI` pays for it in both programs at each step.",
        'with pyro.plate("data", size=1_000_000, subsample_size=len(v)):',
        'with pyro.plate("data", size=1_000_000, subsample=index):',
    ),
    "PV225": Code(
        "note",
        "A plate without a size takes any shape, so that nothing holds its sites to the number of rows.",
        'with pyro.plate("data"):',
        'with pyro.plate("data", len(v)):',
    ),
    "PV226": Code(
        "error",
        "A site whose values follow the rows, or are observed, lies outside the plate over the rows: it belongs to all "
        "rows at once.",
        'h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))\nwith pyro.plate("data", len(v)):',
        'with pyro.plate("data", len(v)):\n'
        '    h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))',
    ),
    "PV227": Code(
        "error",
        "A latent lies in a plate that holds some of its members: Pyro scales log p and log q up, and a power of p / q "
        "is no weight for log p(v). Observed sites may lie in such a plate.",
        'with pyro.plate("columns", 10, subsample=index):\n    pyro.sample("h", dist.Normal(0.0, 1.0))',
        'with pyro.plate("columns", len(index)):\n    pyro.sample("h", dist.Normal(0.0, 1.0))',
    ),
    "PV230": Code(
        "note",
        "The programs have no parameters, so there is nothing to fit. `compare` measures them as they are.",
        "scale = torch.ones(2)",
        'scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)',
    ),
    "PV231": Code(
        "warning",
        "A program uses a network that it does not declare: neither `fit` nor Pyro's `SVI` trains it.",
        "loc = encoder(v)",
        'pyro.module("encoder", encoder)\nloc = encoder(v)',
    ),
    "PV232": Code(
        "warning",
        "A program uses parameters that no gradient reaches: on the way there is a `detach()`, `.data` or `.item()`. "
        "They stay as they are.",
        "loc = encoder(v).detach()",
        "loc = encoder(v)",
    ),
    "PV233": Code(
        "note",
        "The programs declare a network that they do not use on these rows, or under `no_grad` only. It may be of "
        "another way to call them, or frozen on purpose: `requires_grad_(False)` says so.",
        'pyro.module("encoder", encoder)\nwith torch.no_grad():\n    loc = encoder(v)',
        'pyro.module("encoder", encoder)\nloc = encoder(v)',
    ),
    "PV234": Code(
        "error",
        "Two networks, or two tensors of different shapes, go by one name in the param store. Pyro trains the one that "
        "came first, and the other stays as it is, silently. So does a network that is made anew in every call.",
        'pyro.module("net", decoder)  # in the model\npyro.module("net", encoder)  # in the guide',
        'pyro.module("decoder", decoder)\npyro.module("encoder", encoder)',
    ),
    "PV235": Code(
        "warning",
        "The param store holds other tensors under the names of these networks, of an earlier model as a rule. Pyro's "
        "`SVI` would train those, and these not at all. (`fit` begins with an empty store.)",
        "svi = SVI(model, guide, optimiser, Trace_ELBO())  # a second model in one process",
        "pyro.clear_param_store()\nsvi = SVI(model, guide, optimiser, Trace_ELBO())",
    ),
    "PV236": Code(
        "error",
        "`ELBO()(model, guide)` finds the parameters of modules. Of functions, or methods, it finds none, silently; "
        "and `RenyiELBO`, `TraceGraph_ELBO` and `ReweightedWakeSleep` cannot be called that way at all.",
        "loss = Trace_ELBO()(model, guide)  # functions",
        "fit = pplvae.fit(model, guide, rows)  # or make both programs nn.Modules with `forward`",
    ),
    "PV240": Code(
        "error",
        "A row's log-probability changes with the rows beside it, in eval mode: a mean, a softmax or an attention runs "
        "over the rows, or batch statistics are used. No row has an ELBO of its own then.",
        "weights = scores.softmax(0)",
        "weights = scores.softmax(-1)",
    ),
    "PV241": Code(
        "error",
        "A program draws random numbers outside `pyro.sample` in eval mode. They belong to no row and have no density.",
        "h = nn.functional.dropout(h, 0.5)",
        "h = self.dropout(h)  # self.dropout = nn.Dropout(0.5)",
    ),
    "PV250": Code(
        "error",
        "`pyro.poutine.scale` weights a latent in one program only. `Trace_ELBO` then maximises no ELBO, and "
        "`TraceMeanField_ELBO` takes the weight of the guide alone.",
        'with pyro.poutine.scale(scale=beta):  # in the model alone\n    pyro.sample("h", prior)',
        "fit = pplvae.fit(model, guide, rows, kl_weight=objectives.warm_up(20))",
    ),
    "PV251": Code(
        "warning",
        "`pyro.poutine.scale` weights some sites. Such a weight counts in training; ELBOs of rows, gaps and log "
        "p(v) are those of the programs without it.",
        'with pyro.poutine.scale(scale=10.0):\n    pyro.sample("v", likelihood, obs=v)',
        'with pyro.plate("columns", 10, subsample=index):\n    pyro.sample("v", likelihood, obs=v)',
    ),
    "PV252": Code(
        "error",
        "The objective that was asked for cannot be used with these programs.",
        'fit(model, guide, rows, objective="IWAE")  # a discrete latent in the guide',
        'fit(model, guide, rows, objective="ScoreFunction")',
    ),
    "PV253": Code(
        "note",
        "The guide draws latents in another order than the model. Pyro's own `TraceMeanField_ELBO` takes KL terms in "
        "closed form site by site, which is wrong then; `fit` takes them only where they are right.",
        "svi = SVI(model, guide, optimiser, TraceMeanField_ELBO())",
        "svi = SVI(model, guide, optimiser, Trace_ELBO())",
    ),
    "PV260": Code(
        "error",
        "The rows hold values that their likelihood cannot produce.",
        'pyro.sample("v", dist.Bernoulli(logits=decoder(h)).to_event(1), obs=v)  # grey values',
        'pyro.sample("v", dist.ContinuousBernoulli(logits=decoder(h)).to_event(1), obs=v)',
    ),
    "PV261": Code(
        "warning",
        "The rows hold values that their likelihood cannot produce, and the program says not to look. Gaps are "
        "right for this objective; ELBOs are not comparable with those of other likelihoods.",
        'pyro.sample("v", dist.Bernoulli(logits=decoder(h), validate_args=False).to_event(1), obs=v)',
        'pyro.sample("v", dist.ContinuousBernoulli(logits=decoder(h)).to_event(1), obs=v)',
    ),
    "PV262": Code(
        "warning",
        "For some rows log p or log q is infinite or not a number with the weights as they are.",
        "scale = raw.exp()  # overflows",
        "scale = nn.functional.softplus(raw) + 1e-3",
    ),
    "PV263": Code(
        "warning",
        "In float32 a log-probability comes out clearly otherwise than in float64: numbers close to 0 or 1, large sums "
        "or small differences lose their digits.",
        "dist.Bernoulli(probs=decoder(h).sigmoid())",
        "dist.Bernoulli(logits=decoder(h))",
    ),
    "PV270": Code(
        "warning",
        "The latents say nothing of their rows: the guide gives all rows one distribution, or the prior itself, and "
        "the likelihood does not change with the latent. A fit may stay there (collapse).",
        "loc, scale = torch.zeros(len(v), 2), torch.ones(len(v), 2)",
        "loc, log_scale = encoder(v).chunk(2, -1)",
    ),
    "PV271": Code(
        "warning",
        "The rows look like values of another kind than their likelihood is for: counts, or zeros and ones, under a "
        "density of real numbers, whose log-likelihood has no upper end there.",
        'pyro.sample("v", dist.Normal(decoder(h), scale).to_event(1), obs=counts)',
        'pyro.sample("v", dist.Poisson(decoder(h).exp()).to_event(1), obs=counts)',
    ),
    "PV272": Code(
        "warning",
        "Observed columns are far from zero mean and unit spread, where networks begin. Training is slow or breaks, "
        "and a scale of 1 in the likelihood means nothing.",
        'data = pplvae.load_data("rows.csv")',
        'data = pplvae.load_data("rows.csv", standardise=True)',
    ),
}
