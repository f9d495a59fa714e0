"use strict";

// A figure is drawn as soon as it is read, when those that will stand beside it are not there yet: it follows its box.
const resized = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
document.querySelectorAll(".plotly-graph-div").forEach((plot) => resized.observe(plot));

// A header button sorts its table; a second press turns the order round. Missing values stay last in both orders.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending", none: header.dataset.first };
      const order = opposite[header.getAttribute("aria-sort")];
      headers.forEach((other) => other.setAttribute("aria-sort", other === header ? order : "none"));
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compareCells(a.cells[column], b.cells[column], order === "ascending" ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

function compareCells(a, b, direction) {
  const numbers = [a, b].map((cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : null));
  if (numbers[0] !== null && numbers[1] !== null) return direction * (numbers[0] - numbers[1]);
  if (numbers[0] !== null || numbers[1] !== null) return numbers[0] === null ? 1 : -1;
  const missing = [a, b].map((cell) => cell.textContent === "–");
  if (missing[0] || missing[1]) return missing[0] - missing[1];
  return direction * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
}

for (const slider of document.querySelectorAll(".before-after input")) {
  slider.addEventListener("input", () => slider.parentElement.style.setProperty("--split", `${slider.value}%`));
}
