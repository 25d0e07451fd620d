"""The OpenAPI page: made from `openapi.json` in the browser, without anything from elsewhere."""

import copy
from typing import Any

from litestar import MediaType, Request
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from controller.http.problems import MEDIA_TYPE

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
    """The description itself, with the errors as they are really answered."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The framework's own words about errors, replaced by one for all of them."""
        return super().render(request, with_problems(openapi_schema))


def with_problems(described: dict[str, Any]) -> dict[str, Any]:
    """A copy of the description in which every operation answers its errors as problem details (RFC 9457)."""
    fields = {"type": "string", "title": "string", "status": "integer", "detail": "string", "code": "string"}
    problem = {
        "type": "object",
        "description": "`detail` is one line for a person, `code` is for programs.",
        "properties": {name: {"type": kind} for name, kind in fields.items()},
        "required": list(fields),
    }
    answer = {
        "description": "Any error",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    made = copy.deepcopy(described)
    made.setdefault("components", {}).setdefault("schemas", {})["Problem"] = problem
    for verbs in made["paths"].values():
        for operation in verbs.values():
            operation["responses"].pop("400", None)
            operation["responses"]["default"] = answer
    return made


JSON = Description(path="/openapi.json")
PAGE = OfflinePage(path="/")
