// The page /docs: Swagger UI shows the gateway's own OpenAPI document.
//
// A plugin replaces those parts of Swagger UI that do not fit: its frame, because the page has its own
// header and field for the API key; its links inside buttons; and its Markdown, because no text of
// this page is set as HTML.

import { addKeyField, keyHeaders, readKey } from "./key.js";

const KEY_VARIABLE = "$LOOSELY_API_KEY";

addKeyField();

// Swagger UI has no colours for a dark page unless the document has this class.
const dark = matchMedia("(prefers-color-scheme: dark)");
const setColours = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", setColours);
setColours();

function isOwn(url) {
  return new URL(url, location.href).origin === location.origin;
}

/** Return the text as React nodes. A text in backquotes becomes a code element. */
function marked(React, text) {
  // Swagger UI writes the words "Example", "Default value" and "Available values" in <i> elements.
  return text.replaceAll(/<\/?i>/g, "").split("`").map((piece, number) =>
    number % 2 ? React.createElement("code", { key: number }, piece) : piece);
}

const plugin = ({ React, specSelectors, getComponent, fn }) => {
  const h = React.createElement;

  function Layout() {
    const status = specSelectors.loadingStatus();
    if (status === "failed") {
      return h("p", { role: "alert" }, "/openapi.json could not be read. Reload the page.");
    }
    if (status !== "success" || !specSelectors.specStr()) {
      return h("p", {}, "Loading /openapi.json …");
    }
    return h("div", { className: "swagger-ui" },
      h(getComponent("SvgAssets")),
      h("h2", {}, "Routes"),
      h(getComponent("operations", true)),
      h(getComponent("Models", true)));
  }

  function Markdown({ source, className = "" }) {
    return h("div", { className: `markdown ${className}` },
      ...String(source ?? "").split(/\n{2,}/).map((text) => h("p", {}, ...marked(React, text))));
  }

  // The command names the key by the variable that the command line and the clients read.
  function Curl({ request }) {
    const isKeyed = readKey() && isOwn(request.get("url"));
    const shown = isKeyed
      ? request.setIn(["headers", "Authorization"], `Bearer ${KEY_VARIABLE}`) : request;
    const text = fn.requestSnippetGenerator_curl_bash(shown)
      .replace(`'Authorization: Bearer ${KEY_VARIABLE}'`, `"Authorization: Bearer ${KEY_VARIABLE}"`);
    return h("div", { className: "curl-command" },
      h("h4", {}, "The same request with curl"),
      h("pre", { className: "curl microlight", tabIndex: 0 }, text),
      h("button", {
        type: "button", className: "copy", onClick: () => navigator.clipboard.writeText(text),
      }, "Copy"));
  }

  // Swagger UI colours the text for one background only, and its block cannot be scrolled by keys.
  function Code({ children, className = "" }) {
    return h("pre", { className: `${className} microlight`, tabIndex: 0 }, children);
  }

  // The token of a worker's route belongs to one job, so there is nothing to try.
  const isForUsers = (path, method) => !specSelectors.specJson()
    .getIn(["paths", path, method, "security", 0])?.has("jobToken");

  return {
    components: {
      Layout, curl: Curl, Markdown, SyntaxHighlighter: Code,
      DeepLink: ({ text }) => h("span", {}, text),
      authorizeOperationBtn: () => null,
    },
    statePlugins: {
      spec: {
        wrapSelectors: { allowTryItOutFor: () => (state, path, method) => isForUsers(path, method) },
      },
    },
  };
};

// Some elements of Swagger UI have no name, or announce what has not changed.
const viewer = document.getElementById("viewer");

function repair() {
  for (const table of viewer.querySelectorAll("table[role=region]")) {
    table.removeAttribute("role");
    table.removeAttribute("aria-live");
  }
  for (const field of viewer.querySelectorAll("input, select, textarea")) {
    if (field.labels.length || field.hasAttribute("aria-label")) continue;
    const parameter = field.closest("tr[data-param-name]")?.dataset.paramName;
    const isExample = field.classList.contains("examples-select-element");
    field.setAttribute("aria-label", parameter ?? (isExample ? "Example" : "Request body"));
  }
}

new MutationObserver(repair).observe(viewer, { childList: true, subtree: true });

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#viewer",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [plugin],
  layout: "Layout",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  showMutatedRequest: false,
  requestInterceptor: (request) => {
    if (isOwn(request.url)) Object.assign(request.headers, keyHeaders());
    return request;
  },
  responseInterceptor: (response) => {
    if (!response.url.endsWith("/openapi.json")) {
      document.getElementById("answer").textContent = `The answer has the status ${response.status}.`;
    }
    return response;
  },
});
