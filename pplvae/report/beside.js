// Charts of other results beside a comparison, each called with where it stands, what it draws from, and the page.
const beside = (() => {
  const { plain, number, colour, colourOf, draw, diagonal, namesAlong } = drawing;

  const said = (names, values, errors) => names.map((name, k) => `${plain(name)}: ${number(values[k])} ± ${number(errors[k])} nats`);
  const twice = (errors) => errors.map((error) => 2 * (error ?? 0));

  function causes(id, { names, nats, stderr }, page) {
    page.chart(id, () => draw(id, [{
      type: "scatter", mode: "markers", x: nats, y: names.map((_, k) => k), marker: { color: colourOf(0), size: 10 },
      error_x: { type: "data", array: twice(stderr), color: colourOf(0) }, text: said(names, nats, stderr), hovertemplate: "%{text}<extra></extra>",
    }], { xaxis: { title: { text: "nats per row" } }, yaxis: { ...namesAlong(names), autorange: "reversed" } }));
  }

  function latents(id, { names, kl, stderr, active }, page) {
    page.chart(id, () => draw(id, [[true, "active"], [false, "not active"]].map(([is, name]) => {
      const mine = names.map((_, k) => k).filter((k) => active[k] === is);
      return { type: "bar", name, x: mine, y: mine.map((k) => kl[k]), marker: { color: is ? colourOf(0) : colour("soft"), pattern: { shape: is ? "" : "/" } },
        error_y: { type: "data", array: twice(mine.map((k) => stderr[k])), color: colour("ink") },
        text: said(names, kl, stderr).filter((_, k) => active[k] === is), textposition: "none", hovertemplate: "%{text}<extra></extra>" };
    }), { xaxis: namesAlong(names), yaxis: { title: { text: "KL (nats)" } } }));
  }

  function ecdf(id, { names, point, difference, verdict, low, high }, page) {
    const x = [0, ...point, 1];
    const ended = (values) => [0, ...values, 0];
    page.chart(id, () => {
      const edge = { type: "scatter", mode: "lines", x, hoverinfo: "skip", showlegend: false, line: { width: 0 } };
      const band = [{ ...edge, y: ended(low) }, { ...edge, y: ended(high), fill: "tonexty", fillcolor: colour("faint"), name: "band", showlegend: true }];
      let outside = 0;
      const lines = names.map((name, k) => {
        const isInside = verdict[k] === "inside";
        const line = isInside ? { color: colour("soft"), width: 1 } : { color: colourOf(outside), dash: ["solid", "dash", "dot", "dashdot"][outside % 4], width: 2 };
        outside += isInside ? 0 : 1;
        return { type: "scatter", mode: "lines", x, y: ended(difference[k]), name: `${plain(name)}: ${verdict[k]}`, line, showlegend: !isInside && outside <= 8,
          hovertemplate: `${plain(name)}, ${verdict[k]}<extra></extra>` };
      });
      return draw(id, [...band, ...lines], { xaxis: { title: { text: "rank of the true latent (share of the draws)" }, range: [0, 1] },
        yaxis: { title: { text: "ECDF minus uniform" } } });
    });
  }

  function gaps(id, { name, gap, drawn }, page) {
    const here = page.columns.amortisation_gap;
    const there = here.map((value, row) => (value === null || gap[row] === null ? null : value + gap[row]));
    page.chart(id, () => page.points(id, here, there, drawn, { xaxis: { title: { text: "gap of this run (nats)" } },
      yaxis: { title: { text: `gap in ${plain(name)} (nats)` } } }, diagonal(drawn.flatMap((row) => [here[row], there[row]]))), page.pointed(here, there));
  }

  function labels(id, one, page) {
    page.chart(id, () => page.byLabel(id, one.labels, "higher by (nats)"), page.ofLabel);
  }

  return { causes, latents, ecdf, gaps, labels };
})();
