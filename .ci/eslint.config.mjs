// Mistakes in the scripts of a page, which are one there (tests/test_scripts.py), without packages of npm's.
const ofTheBrowser = [
  "addEventListener", "atob", "Blob", "console", "CSS", "DecompressionStream", "document", "getComputedStyle",
  "innerWidth", "IntersectionObserver", "localStorage", "location", "matchMedia", "requestAnimationFrame",
  "ResizeObserver", "Response", "setTimeout", "URL", "window",
];
const ofTheVendors = ["Plotly", "Tabulator"];
const mistakes = [
  "array-callback-return", "no-cond-assign", "no-dupe-keys", "no-eval", "no-fallthrough", "no-implied-eval",
  "no-redeclare", "no-self-compare", "no-shadow", "no-undef", "no-unreachable", "no-unused-vars", "no-var",
  "prefer-const", "use-isnan", "valid-typeof",
];

export default [{
  languageOptions: {
    sourceType: "script",
    globals: Object.fromEntries([...ofTheBrowser, ...ofTheVendors].map((name) => [name, "readonly"])),
  },
  rules: { ...Object.fromEntries(mistakes.map((rule) => [rule, "error"])), eqeqeq: ["error", "always", { null: "ignore" }] },
}];
