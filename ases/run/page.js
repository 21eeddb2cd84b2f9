// Shows the articles that fit the filters and the search. Without this script all of them are shown.
const form = document.getElementById("filters");
const search = document.getElementById("search");
const articles = [...document.querySelectorAll("article")];
const texts = articles.map((article) => article.textContent.toLowerCase());

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = [...form.querySelectorAll("select")].filter((select) => select.value);
  let shown = 0;
  articles.forEach((article, n) => {
    const fits =
      wanted.every((select) => article.dataset[select.id].split(" ").includes(select.value)) &&
      words.every((word) => texts[n].includes(word));
    article.hidden = !fits;
    shown += fits;
  });
  document.getElementById("count").textContent = `${shown} of ${articles.length}`;
}

form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== search) {
    event.preventDefault();
    search.focus();
  }
});
show();
