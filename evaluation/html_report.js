"use strict";

// Names are compared with the numbers in them by value: "run-9" comes before "run-10".
const collator = new Intl.Collator("en", { numeric: true });

function sortKey(row, column, isNumeric) {
  const cell = row.cells[column];
  if (isNumeric) {
    return "value" in cell.dataset ? Number(cell.dataset.value) : null;
  }
  return cell.classList.contains("empty") ? null : cell.textContent;
}

function compareKeys(a, b) {
  return typeof a === "number" ? a - b : collator.compare(a, b);
}

// Cells without a value are last in both directions.
function sortedRows(rows, column, isNumeric, isDescending) {
  const keyed = rows.map((row) => ({ row, key: sortKey(row, column, isNumeric) }));
  const withValue = keyed.filter((entry) => entry.key !== null);
  const withoutValue = keyed.filter((entry) => entry.key === null);
  const sign = isDescending ? -1 : 1;
  withValue.sort((a, b) => sign * compareKeys(a.key, b.key));
  return [...withValue, ...withoutValue].map((entry) => entry.row);
}

function sortTable(event) {
  const header = event.currentTarget.closest("th");
  const table = header.closest("table");
  const isDescending = header.ariaSort === "ascending";
  const isNumeric = header.classList.contains("number");
  const rows = sortedRows([...table.tBodies[0].rows], header.cellIndex, isNumeric, isDescending);
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) {
    other.removeAttribute("aria-sort");
  }
  header.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", sortTable);
}
