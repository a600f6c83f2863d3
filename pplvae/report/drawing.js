"use strict";
// What all charts and tables of a page share. Names from outside reach it as text: `textContent`, or `plain` for charts.
const drawing = (() => {
  const at = (id) => document.getElementById(id);

  async function unpacked(element) {
    const letters = atob(element.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // Charts read a few tags and entities in their texts.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const number = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));

  function made(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function tableOf(head, lines) {
    const cells = (tag, line) => line.map((cell) => made(tag, {}, String(cell)));
    return made("table", {}, made("thead", {}, made("tr", {}, ...cells("th", head))),
      made("tbody", {}, ...lines.map((line) => made("tr", {}, ...cells("td", line)))));
  }

  const symbols = ["circle", "diamond", "square", "cross"];
  const probe = made("span", { hidden: "" });
  document.body.append(probe);
  function colour(name) {
    probe.style.color = `var(--${name})`; // which the browser then says as the colour of the theme
    return getComputedStyle(probe).color;
  }
  const colourOf = (part) => colour(["one", "two", "three", "four"][part % 4]);

  // What has no known error is open.
  const symbolOf = (part, known) => symbols[part % 4] + (known ? "" : "-open");

  function layout(more) {
    const axis = { gridcolor: colour("faint"), zerolinecolor: colour("faint"), linecolor: colour("soft"), automargin: true };
    const { xaxis, yaxis, ...others } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("ink"), size: 13 },
      margin: { l: 50, r: 10, t: 10, b: 45 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, hovermode: "closest",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("ink") },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...others,
    };
  }

  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "autoScale2d", "toImage"] };
  const draw = (id, traces, more) => Plotly.react(at(id), traces, layout(more), config);

  function diagonal(values) {
    const finite = values.filter((value) => value !== null);
    const [low, high] = [finite.reduce((a, b) => Math.min(a, b), Infinity), finite.reduce((a, b) => Math.max(a, b), -Infinity)];
    return { type: "scatter", mode: "lines", x: [low, high], y: [low, high], name: "no gap", showlegend: false, hoverinfo: "skip",
      line: { color: colour("soft"), width: 1 } };
  }

  // Names along an axis, at 0, 1, 2, ...
  const namesAlong = (names) => ({ tickvals: names.map((_, k) => k), ticktext: names.map(plain) });

  return { at, unpacked, plain, number, made, tableOf, colour, colourOf, symbols, symbolOf, layout, config, draw, diagonal, namesAlong };
})();
