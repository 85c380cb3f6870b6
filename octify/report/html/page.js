// Sorting and filtering; the page says everything without it.
"use strict";

function value(row, place, number) {
  const text = row.cells[place].dataset.value;
  if (!number) return text;
  return text === "" || text === "nan" ? NaN : Number(text);
}

// Unknown numbers come last, whichever way the others go.
function compare(a, b, number, sign) {
  if (!number) return sign * a.localeCompare(b, "en", { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return sign * (a - b);
}

function sort(table, place) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[place];
  const number = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  // Numbers begin with the largest, which is what one looks for.
  const order = before === null ? (number ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
  heads.forEach((each) => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a, place, number), value(b, place, number), number, sign));
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(table, place));
    head.replaceChildren(button);
  });
}

// Small letters, and x for the multiplication sign.
function plain(text) {
  return text.toLowerCase().replaceAll("\u00d7", "x");
}

function makeFilter(form) {
  const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, plain([...row.cells].map((cell) => cell.textContent).join(" "))]));
  const fields = [...form.querySelectorAll("[data-filter]")];
  const count = form.querySelector(".count");
  const apply = () => {
    const wanted = Object.fromEntries(fields.map((field) => [field.dataset.filter, field.value]));
    const words = plain(wanted.text).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits =
        words.every((word) => texts.get(row).includes(word)) &&
        ["kind", "form"].every((name) => !wanted[name] || row.dataset[name] === wanted[name]);
      if (row.hidden === fits) row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length} layers`;
  };
  fields.forEach((field) => field.addEventListener("input", apply));
  form.hidden = false;
  apply();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll(".filters").forEach(makeFilter);
