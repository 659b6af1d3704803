"use strict";
// Cards beside the points, and tables that sort. Everything is on the page without them.
{
  let shown = null;
  const hide = () => {
    if (shown) shown.hidden = true;
    shown = null;
  };
  const show = (link, card) => {
    hide();
    shown = card;
    card.hidden = false;
    const point = link.getBoundingClientRect(), size = card.getBoundingClientRect();
    const left = point.right + 8 + size.width < innerWidth ? point.right + 8 : point.left - size.width - 8;
    card.style.left = `${Math.min(Math.max(8, left), innerWidth - size.width - 8)}px`;
    const below = left < 8;  // beside it there is no room
    const top = below ? point.bottom + 8 : point.top + point.height / 2 - size.height / 2;
    card.style.top = `${Math.min(Math.max(8, top), innerHeight - size.height - 8)}px`;
  };
  for (const link of document.querySelectorAll("a.cell")) {
    const card = document.getElementById(link.dataset.card);
    link.querySelector("title").remove();
    link.setAttribute("aria-describedby", card.id);
    let touched = false;
    link.addEventListener("pointerdown", event => { touched = event.pointerType === "touch"; });
    link.addEventListener("pointerenter", event => event.pointerType === "touch" || show(link, card));
    link.addEventListener("pointerleave", event => event.pointerType === "touch" || hide());
    link.addEventListener("focus", () => show(link, card));
    link.addEventListener("blur", hide);
    link.addEventListener("click", event => {
      if (touched) event.preventDefault();
      touched ? show(link, card) : hide();
    });
  }
  document.addEventListener("keydown", event => event.key === "Escape" && hide());
  document.addEventListener("scroll", hide, {passive: true});

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number.parseFloat(cell.dataset.value);
  };
  const compare = (one, other) => {
    if (typeof one === "string") return one.localeCompare(other);
    return Number.isNaN(one) || Number.isNaN(other) ? NaN : one - other;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].sort((a, b) => {
          const [one, other] = [value(a, column), value(b, column)], order = compare(one, other);
          if (Number.isNaN(order)) return Number.isNaN(one) - Number.isNaN(other);  // the unknown stay last
          return down ? -order : order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  }
}
