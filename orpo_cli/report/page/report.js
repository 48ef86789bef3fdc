"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const controls = document.getElementById("controls");
  const place = document.getElementById("plots");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const root = document.documentElement;
  const state = { x: "step", smoothing: 0, min: null, max: null, width: null };
  let plots = [];

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (value) => (value == null ? "" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2) : String(Number(value.toPrecision(5))));

  // Exponential moving average without the bias of its start.
  function smoothed(values, weight) {
    if (!weight) return values;
    let sum = 0, norm = 0;
    return values.map((value) => {
      if (value == null) return value;
      sum = weight * sum + (1 - weight) * value;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  }

  // All curves of a chart over one sorted list of x values, as uPlot wants them: null where a curve has no point.
  function aligned(curves) {
    const xs = [...new Set(curves.flatMap((curve) => curve.x[state.x].filter((x) => x != null)))].sort((a, b) => a - b);
    const place = new Map(xs.map((x, index) => [x, index]));
    const spread = (curve, values) => {
      const row = new Array(xs.length).fill(null);
      curve.x[state.x].forEach((x, index) => { if (x != null) row[place.get(x)] = values[index]; });
      return row;
    };
    const rows = curves.map((curve) => spread(curve, curve.heldOut ? curve.y : smoothed(curve.y, state.smoothing)));
    return { xs, rows, low: curves.map((c) => c.low && spread(c, c.low)), high: curves.map((c) => c.high && spread(c, c.high)) };
  }

  // The interval of each accuracy as a vertical line; those of several runs side by side.
  function drawIntervals(plot, curves, found) {
    const context = plot.ctx;
    context.save();
    context.beginPath();
    context.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    context.clip();
    context.lineWidth = devicePixelRatio;
    context.globalAlpha = 0.55;
    curves.forEach((curve, index) => {
      if (!found.low[index]) return;
      const shift = 3 * devicePixelRatio * (index - (curves.length - 1) / 2);
      context.strokeStyle = data.runs[curve.run].colour;
      found.xs.forEach((x, at) => {
        if (found.low[index][at] == null) return;
        const across = plot.valToPos(x, "x", true) + shift;
        context.beginPath();
        context.moveTo(across, plot.valToPos(found.low[index][at], "y", true));
        context.lineTo(across, plot.valToPos(found.high[index][at], "y", true));
        context.stroke();
      });
    });
    context.restore();
  }

  function range(found) {
    let low = Infinity, high = -Infinity;
    for (const row of [...found.rows, ...found.low, ...found.high]) for (const value of row || []) {
      if (value == null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - margin, high + margin];
  }

  function draw(chart) {
    const curves = chart.curves.filter((curve) => !hidden.has(curve.run) && curve.x[state.x].some((x) => x != null));
    if (!curves.length) return;
    const box = document.createElement("div");
    box.className = "plot";
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${chart.title} by ${state.x}. ` + curves.map((curve) =>
      `${data.runs[curve.run].label}${curve.heldOut ? ", held out" : ""}: from ${number(curve.y[0])} to ${number(curve.y[curve.y.length - 1])}`).join("; "));
    const title = document.createElement("h3");
    title.textContent = chart.title;
    const values = document.createElement("div");
    values.className = "values";
    box.append(title);
    place.append(box);
    const found = aligned(curves);
    const axis = { stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "11px system-ui, sans-serif" };
    const [low, high] = range(found);
    const span = found.xs[found.xs.length - 1] - found.xs[0] || 1;
    const first = found.xs.length > 1 ? found.xs[0] : found.xs[0] - span / 2;
    const last = found.xs.length > 1 ? found.xs[found.xs.length - 1] : found.xs[0] + span / 2;
    const plot = new uPlot({
      width: state.width || Math.max(200, box.clientWidth - 16), height: 230, legend: { show: false },
      scales: { x: { time: false, range: (_, min, max) => (state.min == null ? [first - 0.01 * span, last + 0.01 * span] : [min, max]) }, y: { range: () => [low, high] } },
      cursor: { sync: { key: "runs", setSeries: false }, drag: { x: true, y: false } },
      series: [{}, ...curves.map((curve) => ({
        stroke: data.runs[curve.run].colour + (curve.heldOut || chart.curves.every((c) => !c.heldOut) ? "" : "b0"), spanGaps: true,
        width: curve.heldOut ? 2 : 1.25, points: { show: curve.heldOut || curve.y.length < 3, size: 5 },
      }))],
      axes: [{ ...axis, size: 28, values: (_, ticks) => ticks.map(number) }, { ...axis, size: 56, values: (_, ticks) => ticks.map(number) }],
      hooks: {
        draw: [(self) => drawIntervals(self, curves, found)],
        setCursor: [(self) => show(self, curves, found, values)],
        setSelect: [(self) => zoom(self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x"))],
      },
    }, [found.xs, ...found.rows], box);
    plot.over.addEventListener("dblclick", () => zoom(null, null));
    box.append(values);
    plots.push(plot);
    if (state.min != null) plot.setScale("x", { min: state.min, max: state.max });
  }

  // The values of all curves at or before the cursor.
  function show(plot, curves, found, values) {
    const at = plot.cursor.idx;
    if (at == null || plot.cursor.left < 0) { values.textContent = ""; return; }
    const texts = curves.slice(0, 12).map((curve, index) => {
      let from = at;
      while (from >= 0 && found.rows[index][from] == null) from -= 1;
      if (from < 0) return "";
      const name = data.runs.length > 1 ? data.runs[curve.run].label + " " : "";
      return `${name}${curve.heldOut ? "held out " : ""}${number(found.rows[index][from])}`;
    });
    values.textContent = `${state.x} ${number(found.xs[at])}: ${texts.filter(Boolean).join(" · ")}`;
  }

  function zoom(min, max) {
    if (min != null && !(max > min)) return;
    [state.min, state.max] = [min, max];
    keep();
    for (const plot of plots) {
      plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      plot.setScale("x", { min: min ?? plot.data[0][0], max: max ?? plot.data[0][plot.data[0].length - 1] });
    }
  }

  // The address keeps the choices, so that a page that reloads itself, or a copied link, shows the same.
  function keep() {
    const chosen = new URLSearchParams({ x: state.x, smoothing: state.smoothing });
    if (state.min != null) { chosen.set("min", state.min); chosen.set("max", state.max); }
    if (root.dataset.theme) chosen.set("theme", root.dataset.theme);
    if (hidden.size) chosen.set("hidden", [...hidden].join(","));
    history.replaceState(null, "", `#${chosen}`);
  }

  function restore() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    const usable = [...controls.x.options].filter((option) => !option.disabled).map((option) => option.value);
    if (usable.includes(chosen.get("x"))) state.x = controls.x.value = chosen.get("x");
    if (["light", "dark"].includes(chosen.get("theme"))) root.dataset.theme = chosen.get("theme");
    controls.smoothing.value = Number(chosen.get("smoothing")) || 0;
    state.smoothing = Number(controls.smoothing.value);
    const [min, max] = [chosen.get("min"), chosen.get("max")].map((text) => (text == null ? NaN : Number(text)));
    if (max > min) [state.min, state.max] = [min, max];
    for (const text of (chosen.get("hidden") || "").split(",")) if (text !== "" && Number(text) < data.runs.length) hidden.add(Number(text));
  }

  function drawAll() {
    for (const plot of plots) plot.destroy();
    plots = [];
    place.replaceChildren();
    data.charts.forEach(draw);
    document.documentElement.dataset.charts = String(plots.length);
  }

  function makeLegend() {
    const legend = document.getElementById("legend");
    data.runs.forEach((run, index) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hidden.has(index) });
      box.addEventListener("change", () => { if (box.checked) hidden.delete(index); else hidden.add(index); keep(); drawAll(); });
      const swatch = document.createElement("span");
      swatch.style.background = run.colour;
      label.append(box, " ", swatch, run.label);
      legend.append(label);
    });
    if (data.runs.length === 1) legend.hidden = true;
  }

  for (const option of controls.x.options) {
    option.disabled = !data.charts.some((chart) => chart.curves.some((curve) => curve.x[option.value].some((x) => x != null)));
  }
  controls.x.addEventListener("change", () => { Object.assign(state, { x: controls.x.value, min: null, max: null }); keep(); drawAll(); });
  controls.smoothing.addEventListener("input", () => { state.smoothing = Number(controls.smoothing.value); keep(); drawAll(); });
  controls.reset.addEventListener("click", () => zoom(null, null));
  controls.addEventListener("submit", (event) => event.preventDefault());
  dark.addEventListener("change", drawAll);
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    root.dataset.theme = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
    keep();
    drawAll();
  });
  // On paper the charts are light, and two fit side by side.
  let shown = null;
  addEventListener("beforeprint", () => {
    shown = root.dataset.theme;
    root.dataset.theme = "light";
    state.width = 320;
    drawAll();
  });
  addEventListener("afterprint", () => {
    if (shown) root.dataset.theme = shown; else delete root.dataset.theme;
    state.width = null;
    drawAll();
  });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawAll(); } });
  restore();
  makeLegend();
  drawAll();
})();
