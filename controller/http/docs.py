"""The OpenAPI page: made from `openapi.json` in the browser, without anything from elsewhere."""

from typing import Any

from litestar import MediaType, Request
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from controller.http.description import described

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flotilla API</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1d2733 }
  details { border: 1px solid #d5dce3; border-radius: 8px; margin: .5rem 0; padding: .4rem .8rem }
  summary { cursor: pointer } code { font: 13px ui-monospace, monospace } pre { overflow: auto; font-size: 13px }
  .verb { display: inline-block; width: 4.5rem; font-weight: 650; color: #0b6e99 } .dim { color: #66727f }
  @media (prefers-color-scheme: dark) { body { background: #10151b; color: #e8edf2 } details { border-color: #33404d } }
</style>
<h1>Flotilla API</h1>
<p class="dim">The description for programs: <a href="PATH/openapi.json">openapi.json</a></p>
<main id="main">Loading</main>
<script>
  const element = (name, text, parent, kind) => {
    const made = document.createElement(name)
    if (text) made.textContent = text
    if (kind) made.className = kind
    parent.append(made)
    return made
  }
  fetch("PATH/openapi.json").then(answer => answer.json()).then(api => {
    const main = document.getElementById("main"), groups = {}
    main.textContent = ""
    for (const [path, verbs] of Object.entries(api.paths))
      for (const [verb, what] of Object.entries(verbs))
        (groups[(what.tags || ["other"])[0]] ||= []).push([verb, path, what])
    const shown = name => JSON.stringify(api.components.schemas[name], null, 2)
    for (const [tag, list] of Object.entries(groups)) {
      element("h2", tag, main)
      for (const [verb, path, what] of list) {
        const box = element("details", "", main), head = element("summary", "", box)
        element("span", verb.toUpperCase(), head, "verb"); element("code", path, head)
        element("span", "  " + (what.summary || ""), head, "dim")
        element("p", what.description || "", box)
        for (const one of what.parameters || []) {
          const line = element("div", "", box)
          element("code", one.name, line)
          element("span", `  in ${one.in}${one.required ? ", required" : ""} ${one.description || ""}`, line, "dim")
        }
        const names = new Set(JSON.stringify([what.requestBody, what.responses]).match(/schemas\\/\\w+/g) || [])
        for (const name of names) {
          const key = name.slice(8)
          if (!api.components.schemas[key]) continue
          const part = element("details", "", box); element("summary", key, part); element("pre", shown(key), part)
        }
      }
    }
  })
</script>
</html>
"""


class OfflinePage(OpenAPIRenderPlugin):
    """Renders the page; `JSON` serves the description that it reads."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page, with the path that it is mounted at."""
        del openapi_schema
        path = "/" + request.url.path.strip("/").removesuffix("/index")
        return _PAGE.replace("PATH", path).encode()

    media_type = MediaType.HTML


class Description(JsonRenderPlugin):
    """The description itself, with what the framework cannot know of: errors, who may ask, and retries."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """See `described`."""
        return super().render(request, described(openapi_schema))


JSON = Description(path="/openapi.json")
PAGE = OfflinePage(path="/")
