// Validates an AsyncAPI document with AsyncAPI's own parser: one line for each finding; exit status 1 for an error.
import { readFileSync } from "node:fs";
import { Parser, DiagnosticSeverity } from "@asyncapi/parser";

const [path] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
for (const { severity, code, message, path: where } of diagnostics) {
  console.log(`${DiagnosticSeverity[severity]} ${code} at ${where.join("/") || "the top"}: ${message}`);
}
const broken = diagnostics.some(({ severity }) => severity === DiagnosticSeverity.Error) || document === undefined;
process.exit(broken ? 1 : 0);
