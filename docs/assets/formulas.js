// Typesets what pymdownx.arithmatex marked, by KaTeX, which only pages with formulas load. Offline they stay as written.
const KATEX = "https://cdn.jsdelivr.net/npm/katex@0.19.1/dist/";

function load(tag, properties) {
  return new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement(tag), { crossOrigin: "anonymous", ...properties });
    element.onload = resolve;
    element.onerror = reject;
    document.head.append(element);
  });
}

async function typeset() {
  await Promise.all([
    load("link", {
      rel: "stylesheet",
      href: KATEX + "katex.min.css",
      integrity: "sha384-WwGtaC6ywCHxA5cstpj/3+xIZvTez8dq2IcBQaXRkenHZ7FVVq1ZROtURwfbtTlG",
    }),
    load("script", {
      src: KATEX + "katex.min.js",
      integrity: "sha384-a1WQdjRj162i159OYq041X6I4K8NenkrI09LlPmiHg0YOb7CR+wJOraXwK9abpnE",
    }),
  ]);
  await load("script", {
    src: KATEX + "contrib/auto-render.min.js",
    integrity: "sha384-bjyGPfbij8/NDKJhSGZNP/khQVgtHUE5exjm4Ydllo42FwIgYsdLO2lXGmRBf5Mz",
  });
  renderMathInElement(document.body, {
    delimiters: [
      { left: "\\[", right: "\\]", display: true },
      { left: "\\(", right: "\\)", display: false },
    ],
  });
}

document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".arithmatex")) typeset().catch(() => {});
});
