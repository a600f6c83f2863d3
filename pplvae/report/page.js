// Draws the page from what is packed into it.
(async () => {
  const { at, unpacked, plain, number, made, tableOf, colour, colourOf, symbols, symbolOf, layout, config, draw, diagonal, namesAlong } = drawing;

  let content;
  try {
    content = JSON.parse(await unpacked(at("content")));
    for (const library of document.querySelectorAll(".library")) {
      document.head.append(made("script", {}, await unpacked(library)));
      library.remove();
    }
  } catch (error) {
    at("failed").hidden = false;
    document.querySelectorAll(".drawn").forEach((section) => (section.hidden = true));
    throw error;
  }

  const { parts, rows } = content;
  const columns = rows.columns;
  const count = rows.id.length;
  const word = (name, row) => rows.words[name].names[rows.words[name].of[row]];
  const state = { selected: null, current: null };
  const charts = []; // what each does when the selection or the theme changes

  // ------------------------------------------------------------------------------------------------ charts

  // A chart is drawn when it comes into view, and again when something changes.
  function chart(id, drawn, listen) {
    const one = { seen: false, draw: () => drawn(id) };
    charts.push(one);
    new IntersectionObserver(async (entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      one.seen = true;
      await one.draw();
      if (listen) listen(at(id));
    }, { rootMargin: "300px" }).observe(at(id));
  }

  const redraw = () => charts.filter((one) => one.seen).forEach((one) => one.draw());
  const isSelected = (row) => state.selected === null || state.selected.has(row);

  function select(chosen) {
    state.selected = chosen === null || chosen.length === 0 ? null : new Set(chosen);
    const size = state.selected === null ? 0 : state.selected.size;
    at("selected").textContent = size === 0 ? "No rows are selected." : `${size} of ${count} rows are selected.`;
    at("clear").hidden = size === 0;
    redraw();
    if (table) table.setFilter((row) => isSelected(row.place));
  }

  const everyRow = Array.from({ length: count }, (_, row) => row);

  // Points of rows: a trace for each part, and one around the row that is looked at.
  function points(id, x, y, drawn, more, line) {
    const traces = parts.map((name, part) => {
      const mine = drawn.filter((row) => rows.part[row] === part);
      return {
        type: "scatter", mode: "markers", name: plain(name), x: mine.map((row) => x[row]), y: mine.map((row) => y[row]), customdata: mine,
        text: mine.map((row) => plain(rows.id[row])), hovertemplate: "row %{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        marker: { color: colourOf(part), symbol: symbols[part % 4], size: drawn.length > 1500 ? 4 : 6,
          opacity: mine.map((row) => (isSelected(row) ? 0.65 : 0.08)) },
      };
    });
    if (line) traces.push(line);
    if (state.current !== null) {
      traces.push({ type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip", x: [x[state.current]], y: [y[state.current]],
        marker: { symbol: "circle-open", size: 16, color: colour("ink"), line: { width: 3 } } });
    }
    return draw(id, traces, { dragmode: "select", ...more });
  }

  function pointed(x, y) {
    return (div) => {
      div.on("plotly_click", (event) => event.points[0].customdata !== undefined && show(event.points[0].customdata));
      div.on("plotly_deselect", () => select(null));
      div.on("plotly_selected", (event) => {
        if (!event?.range) return;
        const within = (value, [a, b]) => value !== null && value >= Math.min(a, b) && value <= Math.max(a, b);
        select(everyRow.filter((row) => within(x[row], event.range.x) && within(y[row], event.range.y)));
      });
    };
  }

  function ends(values) {
    const finite = values.filter((value) => value !== null).sort((a, b) => a - b);
    return finite.length ? [finite[0], finite[Math.floor(0.995 * (finite.length - 1))]] : [0, 1];
  }

  function bins() {
    const [low, high] = ends(columns.amortisation_gap);
    const first = Math.min(low, 0);
    const width = (high - first || 1) / 40;
    return { first, width, of: (row) => {
      const gap = columns.amortisation_gap[row];
      return gap === null ? -1 : Math.min(39, Math.max(0, Math.floor((gap - first) / width)));
    } };
  }

  function gaps(id) {
    const { first, width, of } = bins();
    const centres = Array.from({ length: 40 }, (_, k) => first + (k + 0.5) * width);
    const traces = parts.map((name, part) => {
      const mine = everyRow.filter((row) => rows.part[row] === part && of(row) >= 0);
      const heights = new Array(40).fill(0);
      mine.filter(isSelected).forEach((row) => (heights[of(row)] += 100 / (mine.length || 1)));
      return { type: "bar", name: plain(name), x: centres, y: heights, width, opacity: 0.6, marker: { color: colourOf(part),
        pattern: { shape: part % 2 ? "/" : "", fillmode: "overlay", fgcolor: colour("ink"), fgopacity: 0.5, size: 6, solidity: 0.15 } }, hovertemplate: "%{x:.3f} nats: %{y:.1f} %<extra></extra>" };
    });
    return draw(id, traces, { barmode: "overlay", xaxis: { title: { text: "amortisation gap (nats)" } }, yaxis: { title: { text: "% of the part's rows" } } });
  }

  function ladder(id) {
    const names = content.ladders[0].map((rung) => rung.name);
    const traces = content.ladders.map((rungs, part) => ({
      type: "scatter", mode: "markers", name: plain(parts[part]), x: rungs.map((rung) => rung.nats),
      y: rungs.map((rung, k) => k + 0.12 * (part - (parts.length - 1) / 2)),
      error_x: { type: "data", array: rungs.map((rung) => 2 * (rung.stderr ?? 0)), color: colourOf(part) },
      marker: { color: colourOf(part), symbol: rungs.map((rung) => symbolOf(part, rung.stderr !== null)), size: 10 },
      text: rungs.map((rung) => `${plain(rung.name)}: ${number(rung.nats)} ± ${number(rung.stderr)}`), hovertemplate: "%{text}<extra></extra>",
    }));
    return draw(id, traces, {
      xaxis: { title: { text: "nats above the encoder's guide" } },
      yaxis: { ...namesAlong(names), autorange: "reversed", zeroline: false },
    });
  }

  // Means by label, part by part, with intervals.
  function byLabel(id, groups, axis) {
    const names = [...new Set(groups.flatMap((part) => part.names))];
    const traces = groups.map((part, k) => ({
      type: "scatter", mode: "markers", name: plain(parts[k]), y: part.mean,
      x: part.names.map((name) => names.indexOf(name) + 0.15 * (k - (parts.length - 1) / 2)), customdata: part.names.map((name) => [k, name]),
      error_y: { type: "data", symmetric: false, color: colourOf(k), array: part.high.map((high, i) => (high === null ? 0 : high - part.mean[i])),
        arrayminus: part.low.map((low, i) => (low === null ? 0 : part.mean[i] - low)) },
      marker: { color: colourOf(k), symbol: part.low.map((low, i) => symbolOf(k, low !== null && part.high[i] !== null)), size: 9 },
      text: part.names.map((name, i) => `${plain(name)}: ${number(part.mean[i])} nats, ${part.low[i] === null || part.high[i] === null
        ? "too few rows for an interval" : `${number(part.low[i])} to ${number(part.high[i])}`}`), hovertemplate: "%{text}<extra></extra>",
    }));
    return draw(id, traces, { xaxis: namesAlong(names), yaxis: { title: { text: axis }, rangemode: "tozero" } });
  }

  const ofLabel = (div) => div.on("plotly_click", (event) => {
    const [part, name] = event.points[0].customdata;
    select(everyRow.filter((row) => rows.part[row] === part && word("label", row) === name));
  });

  function lambda(id) {
    const one = content.lambda_drawn[at("parameter").value];
    const traces = parts.map((name, part) => {
      const mine = one.rows.map((row, k) => [row, k]).filter(([row]) => rows.part[row] === part);
      return { type: "scatter", mode: "markers", name: plain(name), x: mine.map(([, k]) => one.amortised[k]), y: mine.map(([, k]) => one.local[k]),
        customdata: mine.map(([row]) => row), text: mine.map(([row]) => plain(rows.id[row])),
        hovertemplate: "row %{text}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
        marker: { color: colourOf(part), symbol: symbols[part % 4], size: 4, opacity: mine.map(([row]) => (isSelected(row) ? 0.6 : 0.06)) } };
    });
    traces.push(diagonal(one.amortised.concat(one.local)));
    return draw(id, traces, { xaxis: { title: { text: "encoder's" } }, yaxis: { title: { text: "row's own" } } });
  }

  function curves(id) {
    const { epoch, objective, elbo_validation: elbo, elbo_validation_stderr: error } = content.history;
    const traces = [{ type: "scatter", mode: "lines", name: "training objective", x: epoch, y: objective, line: { color: colourOf(0) } }];
    if (elbo?.some((value) => value !== null)) {
      traces.push({ type: "scatter", mode: "lines", name: "validation ELBO", x: epoch, y: elbo, line: { color: colourOf(1), dash: "dash" }, connectgaps: true,
        error_y: { type: "data", array: error.map((value) => value ?? 0), color: colourOf(1), thickness: 0.5, width: 0 } });
    }
    const later = objective.slice(Math.floor(objective.length / 10)).concat(elbo ?? []).filter((value) => value !== null);
    const [low, high] = [Math.min(...later), Math.max(...later)];
    const range = [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
    return draw(id, traces, { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "nats per row" }, range } });
  }

  function looks(id) {
    const traces = ["train", "validation"].map((part, k) => {
      const gap = content.history[`${part}_gap`] ?? [];
      const seen = gap.map((_, epoch) => epoch).filter((epoch) => gap[epoch] !== null);
      return { type: "scatter", mode: "lines+markers", name: `${part} rows`, x: seen.map((look) => content.history.epoch[look]), y: seen.map((look) => gap[look]),
        line: { color: colourOf(k), dash: k ? "dash" : "solid" }, marker: { symbol: symbols[k] },
        error_y: { type: "data", array: seen.map((look) => content.history[`${part}_gap_stderr`][look] ?? 0), color: colourOf(k) } };
    });
    return draw(id, traces.filter(({ x }) => x.length), { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "amortisation gap (nats)" }, rangemode: "tozero" } });
  }

  // ------------------------------------------------------------------------------------------------ one row

  const shownAt = new Map((content.shown?.rows ?? []).map((row, k) => [row, k]));
  const lambdaAt = new Map(content.lambda_rows.map((row, k) => [row, k]));

  function picture(values, [height, width], all) {
    const canvas = made("canvas", { width, height, role: "img", "aria-label": "The row as a picture" });
    const image = canvas.getContext("2d").createImageData(width, height);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    values.forEach((value, k) => {
      const grey = 255 - (255 * ((value ?? low) - low)) / (high - low || 1);
      image.data.set([grey, grey, grey, 255], 4 * k);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function dataOf(row) {
    const k = shownAt.get(row);
    if (k === undefined) {
      return [made("p", { class: "hint" }, content.shown ? "The data of this row are not in the page: those of the largest gaps, and some of every size, are."
        : "The data of rows that are no vectors are not in the page.")];
    }
    const { shape, value, columns: names, named, amortised, local } = content.shown;
    const versions = [["data", value[k]], ...(amortised ? [["by the encoder's guide", amortised[k]], ["by its own guide", local[k]]] : [])];
    if (shape.length) {
      const all = versions.flatMap(([, values]) => values).filter((one) => one !== null);
      return versions.map(([name, values]) => made("figure", {}, picture(values, shape, all), made("figcaption", {}, name)));
    }
    if (named || names.length <= 30) {
      const lines = names.map((name, i) => [name, ...versions.map(([, values]) => number(values[i]))]);
      return [made("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "The data of the row" }, tableOf(["column", ...versions.map(([name]) => name)], lines))];
    }
    const div = made("div", { class: "chart", role: "group", "aria-label": "The values of the row" });
    requestAnimationFrame(() => Plotly.newPlot(div, versions.map(([name, values], i) => ({ type: i ? "scatter" : "bar", mode: "lines", name, y: values,
      marker: { color: colourOf(i) } })), layout({ xaxis: { title: { text: "column" } } }), config));
    return [div];
  }

  // Comparisons of other runs on the same rows.
  const others = content.beside.filter((one) => one.gap);
  const inOther = (one, row) => (one.gap[row] === null || columns.amortisation_gap[row] === null ? null : columns.amortisation_gap[row] + one.gap[row]);

  function ladderOf(row) {
    const rung = (name, column) => columns[column] && [name, number(columns[column][row]), number(columns[`${column}_stderr`]?.[row], 4)];
    const families = Object.keys(columns).filter((name) => /^elbo_local_/.test(name) && !/_stderr$/.test(name));
    const lines = [rung("ELBO, encoder's guide", "elbo_amortised"), rung("ELBO, own guide", "elbo_local"),
      ...families.map((name) => rung(`ELBO, own ${name.slice(11).replace(/_/g, " ")}`, name)), rung("log p(v)", "log_evidence"),
      rung("amortisation gap", "amortisation_gap"), rung("approximation gap", "approximation_gap"),
      ...others.map((one) => [`amortisation gap in ${one.name}`, number(inOther(one, row)), ""])].filter(Boolean);
    return tableOf(["bound", "nats", "± Monte Carlo"], lines);
  }

  function lambdaTable(row) {
    const k = lambdaAt.get(row);
    if (k === undefined) return [];
    const lines = content.lambda.flatMap(({ name, amortised, local }) => amortised[k].map((value, i) => [amortised[k].length > 1 ? `${name}[${i}]` : name,
      number(value), number(local[k][i]), value === null || local[k][i] === null ? "" : number(local[k][i] - value)]));
    const more = lines.length > 40 ? [made("p", { class: "hint" }, `The first 40 of ${lines.length} numbers.`)] : [];
    return [made("div", { class: "scroll" }, made("h3", {}, "λ"), tableOf(["parameter", "encoder's", "own", "difference"], lines.slice(0, 40)), ...more)];
  }

  function neighbours(row) {
    const gap = columns.amortisation_gap[row];
    if (gap === null) return [];
    const near = everyRow.filter((other) => other !== row && rows.part[other] === rows.part[row] && columns.amortisation_gap[other] !== null)
      .sort((a, b) => Math.abs(columns.amortisation_gap[a] - gap) - Math.abs(columns.amortisation_gap[b] - gap)).slice(0, 6);
    const buttons = near.map((other) => {
      const button = made("button", { type: "button" }, `${rows.id[other]}: ${number(columns.amortisation_gap[other])}`);
      button.addEventListener("click", () => show(other));
      return button;
    });
    return [made("p", {}, "Rows of about the same gap: ", ...buttons.flatMap((button) => [button, " "]))];
  }

  function show(row) {
    state.current = row;
    const label = rows.words.label ? `, label ${word("label", row)}` : "";
    const search = [["status", word("status", row)], ["method", rows.words.method ? word("method", row).replace(/_/g, " ") : ""], ["steps", columns.steps?.[row] ?? ""],
      ["shortfall", `${number(columns.shortfall?.[row], 4)} ± ${number(columns.shortfall_stderr?.[row], 4)} nats`], ["draws", columns.draws?.[row] ?? ""],
      ["k-hat, encoder's guide", number(columns.pareto_k_amortised?.[row], 2)], ["k-hat, own guide", number(columns.pareto_k_local?.[row], 2)]];
    at("row").replaceChildren(
      made("h3", {}, `Row ${rows.id[row]} of ${parts[rows.part[row]]}${label}`),
      made("div", { class: "panels" }, made("div", {}, made("div", { class: "panels" }, ...dataOf(row))), made("div", { class: "scroll" }, made("h3", {}, "Its ladder"), ladderOf(row)),
        made("div", {}, made("h3", {}, "Its search"), tableOf(["of the search", "value"], search.filter(([, value]) => value !== ""))), ...lambdaTable(row)),
      ...neighbours(row));
    at("row").hidden = false;
    document.querySelectorAll(".tabulator-row.current").forEach((line) => line.classList.remove("current"));
    table?.getRow(row)?.getElement?.().classList.add("current");
    redraw();
    at("row").focus({ preventScroll: true });
    at("row").scrollIntoView({ block: "nearest" });
  }

  // ------------------------------------------------------------------------------------------------ the table

  let table = null;
  const titles = { amortisation_gap: "gap", amortisation_gap_stderr: "± MC", elbo_amortised: "encoder's ELBO", elbo_local: "own ELBO",
    log_evidence: "log p(v)", approximation_gap: "family's gap", pareto_k_amortised: "k-hat", shortfall: "shortfall", steps: "steps" };

  function columnsOfTable() {
    const named = (title, field, more) => ({ title, field, minWidth: 80, headerFilter: "input", headerFilterPlaceholder: "contains",
      headerFilterParams: { elementAttributes: { "aria-label": `Only rows whose ${title} contains` } }, ...more });
    const wordy = [["label", "label"], ["status", "status"]].filter(([name]) => rows.words[name]);
    const numeric = [...Object.entries(titles).filter(([name]) => columns[name]), ...others.map((one, k) => [`other${k}`, `gap in ${one.name} minus this`])];
    return [named("row", "id", { frozen: innerWidth > 700 }), ...(parts.length > 1 ? [named("part", "part")] : []),
      ...wordy.filter(([name]) => name === "label").map(([name, title]) => named(title, name)),
      ...numeric.map(([field, title]) => ({ title: plain(title), field, hozAlign: "right", sorter: "number", minWidth: 90, headerFilter: "number", headerFilterFunc: ">=",
        headerFilterPlaceholder: "at least", headerFilterParams: { elementAttributes: { "aria-label": `Only rows whose ${title} is at least` } },
        formatter: (cell) => (field === "steps" ? String(cell.getValue() ?? "") : number(cell.getValue(), field === "shortfall" ? 4 : 3)) })),
      ...wordy.filter(([name]) => name === "status").map(([name, title]) => named(title, name))];
  }

  function makeTable() {
    const gap = (row) => columns.amortisation_gap[row] ?? -Infinity;
    const data = [...everyRow].sort((a, b) => gap(b) - gap(a)).map((row) => {
      const line = { place: row, id: rows.id[row], part: parts[rows.part[row]] };
      for (const name of Object.keys(titles)) if (columns[name]) line[name] = columns[name][row];
      others.forEach((one, k) => (line[`other${k}`] = one.gap[row]));
      for (const name of ["label", "status"]) if (rows.words[name]) line[name] = word(name, row);
      return line;
    });
    table = new Tabulator(at("rows"), {
      data, index: "place", columns: columnsOfTable(), height: Math.min(420, 110 + 30 * count), layout: innerWidth > 700 ? "fitColumns" : "fitDataFill",
      columnDefaults: { headerWordWrap: true }, placeholder: "No row fits.", autoResize: false, // a chart that is drawn above would take the focus from a line
      rowFormatter: (line) => {
        const element = line.getElement();
        element.tabIndex = 0;
        element.classList.toggle("current", line.getData().place === state.current);
        element.onkeydown = (event) => {
          if (event.key === "Enter") show(line.getData().place);
          const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
          if (next && element[next]) { element[next].focus(); event.preventDefault(); }
        };
      },
    });
    addEventListener("resize", () => table.redraw());
    table.on("rowClick", (_, line) => show(line.getData().place));
    table.on("tableBuilt", () => {
      at("rows").querySelector(".tabulator-tableholder").removeAttribute("tabindex"); // its lines take the focus
      document.body.dataset.ready = "yes";
    });
  }

  // ------------------------------------------------------------------------------------------------ putting it together

  function present(id) {
    at(`${id}-figure`).hidden = false;
  }

  chart("ladder", ladder);
  chart("gaps", gaps, (div) => div.on("plotly_click", (event) => {
    const { of } = bins();
    const chosen = event.points[0].pointIndex;
    select(everyRow.filter((row) => rows.part[row] === event.points[0].curveNumber && of(row) === chosen));
  }));
  chart("elbos", (id) => points(id, columns.elbo_amortised, columns.elbo_local, content.drawn, {
    xaxis: { title: { text: "amortised ELBO (nats)" } }, yaxis: { title: { text: "ELBO of the row's own guide (nats)" } } },
    diagonal(columns.elbo_amortised)), pointed(columns.elbo_amortised, columns.elbo_local));
  if (content.drawn_k.length) {
    present("khat");
    chart("khat", (id) => points(id, columns.pareto_k_amortised, columns.amortisation_gap, content.drawn_k, {
      xaxis: { title: { text: "k-hat of the encoder's guide" } }, yaxis: { title: { text: "amortisation gap (nats)" } } }),
      pointed(columns.pareto_k_amortised, columns.amortisation_gap));
  }
  if (content.labels) {
    present("labels");
    chart("labels", (id) => byLabel(id, content.labels, "mean gap (nats)"), ofLabel);
  }
  if (content.lambda_drawn.length) {
    present("lambda");
    content.lambda_drawn.forEach(({ name }, k) => at("parameter").append(made("option", { value: k }, name)));
    chart("lambda", lambda, (div) => div.on("plotly_click", (event) => event.points[0].customdata !== undefined && show(event.points[0].customdata)));
    at("parameter").addEventListener("change", () => lambda("lambda"));
  }
  if (content.history) {
    present("curves");
    chart("curves", curves);
  }
  if (content.history?.train_gap?.some((gap) => gap !== null)) {
    present("looks");
    chart("looks", looks);
  }
  const page = { columns, chart, points, pointed, byLabel, ofLabel };
  content.beside.forEach((one, place) => one.charts.forEach((kind) => beside[kind](`beside-${place}-${kind}`, one, page)));
  for (const [id, drawn] of [["elbos", content.drawn], ["khat", content.drawn_k]]) {
    const note = at(id).parentElement.querySelector(".thinned");
    if (drawn.length < count) note.textContent = `${drawn.length} of ${count} points are drawn: others lie on top of these, or are not finite.`;
  }
  const some = content.lambda_drawn[0];
  if (some && some.rows.length < some.of) at("lambda").parentElement.querySelector(".thinned").textContent = `${some.rows.length} of ${some.of} points are drawn.`;
  content.findings.forEach(({ code, rows: concerned }, k) => {
    if (!concerned.length) return;
    const button = made("button", { type: "button" }, `Select ${concerned.length === 1 ? "this row" : `these ${concerned.length} rows`}`);
    button.addEventListener("click", () => select(concerned));
    at(`${code}-${k}`).append(button);
  });
  at("clear").addEventListener("click", () => select(null));

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  function theme(name) {
    if (name) document.documentElement.dataset.theme = name;
    at("theme").textContent = isDark() ? "Light" : "Dark";
    redraw();
  }
  at("theme").hidden = false;
  at("theme").addEventListener("click", () => theme(isDark() ? "light" : "dark"));
  dark.addEventListener("change", () => theme());
  addEventListener("beforeprint", () => theme("light"));
  theme();
  makeTable();
})();
