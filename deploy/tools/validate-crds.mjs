// Validate a JSON list of custom resources on stdin against the schemas of the Prometheus operator; print the errors.
import { readFileSync } from "node:fs";

const models = new URL("../../.tools/crds/node_modules/@kubernetes-models/prometheus-operator/_schemas/", import.meta.url);
const prefix = "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1";

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const { validate } = await import(new URL(`${prefix}${resource.kind}.js`, models));
  if (validate(resource)) continue;
  for (const { instancePath, message, keyword, params } of validate.errors) {
    console.log(`${resource.kind}${instancePath}: ${message ?? keyword} ${JSON.stringify(params)}`);
  }
}
