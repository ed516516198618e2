// The rules and dashboards of comms-exporter as a monitoring mixin. They are those of this repository; _config changes them as
// docs/alerts.md says, like the file that `comms-exporter rules --config` reads:
//
//   (import 'comms-exporter/deploy/mixin/mixin.libsonnet') + {
//     _config+:: { job: 'mail', thresholds+: { 'comms_emails_failed:ratio_warning': 0.02 } },
//   }
local shipped = {
  rules: std.parseYaml(importstr '../prometheus/comms-exporter.rules.yml').groups,
  alerts: std.parseYaml(importstr '../prometheus/comms-exporter.alerts.yml').groups,
};

// What the files say, and a configuration changes.
local shippedJob = 'comms-exporter';
local shippedRunbooks = 'docs/runbooks/';
// The error budget of the delivery objective.
local budget = 'comms_emails_lost:ratio_budget';

local namesWith(prefix) = [
  std.substr(rule.record, std.length(prefix), std.length(rule.record))
  for group in shipped.rules
  for rule in group.rules
  if std.startsWith(rule.record, prefix)
];
local thresholds = namesWith('threshold:');
local thresholdsByAccount = namesWith('account:threshold_');
local alerts = std.set([rule.alert for group in shipped.alerts for rule in group.rules]);

// A misspelt name would change nothing.
local known(where, names, valid) =
  local unknown = [name for name in names if !std.member(valid, name)];
  assert unknown == [] : '%s: unknown name %s' % [where, std.join(', ', unknown)];
  true;

local number(value) = std.rstripChars(std.rstripChars('%.10f' % value, '0'), '.');

local changedThresholds(where, config, valid) =
  local given = std.get(config, 'thresholds', {});
  assert known(where + 'thresholds', std.objectFields(given), [name for name in valid if name != budget]);
  given + (if std.get(config, 'objective') == null then {} else { [budget]: 1 - config.objective });

local recordings(config) =
  local general = changedThresholds('', config, thresholds);
  local accounts = {
    [account]: changedThresholds('accounts.%s.' % account, config.accounts[account], thresholdsByAccount)
    for account in std.objectFields(config.accounts)
    if known('accounts.' + account, std.objectFields(config.accounts[account]), ['objective', 'thresholds'])
  };
  local changed(rule) =
    local name = std.strReplace(rule.record, 'threshold:', '');
    if !std.startsWith(rule.record, 'threshold:') then [rule] else
      [rule + (if name in general then { expr: 'vector(%s)' % number(general[name]) } else {})] +
      [
        { record: rule.record, expr: 'vector(%s)' % number(accounts[account][name]), labels: { account: account } }
        for account in std.objectFields(accounts)
        if name in accounts[account]
      ];
  [group { rules: std.flatMap(changed, group.rules) } for group in shipped.rules];

local alerting(config) =
  assert known('disabled', config.disabled, alerts);
  local below(base, path, shippedPath) =
    if base == '' then path else std.strReplace(path, shippedPath, std.rstripChars(base, '/') + '/');
  local changed(rule) = rule {
    expr: std.strReplace(rule.expr, 'job="%s"' % shippedJob, 'job="%s"' % config.job),
    labels+: config.labels,
    annotations+: {
      runbook_url: below(config.runbooks, rule.annotations.runbook_url, shippedRunbooks),
      dashboard_url: (if config.dashboards == '' then '' else std.rstripChars(config.dashboards, '/')) + super.dashboard_url,
    },
  };
  local groups = [
    group { rules: [changed(rule) for rule in group.rules if !std.member(config.disabled, rule.alert)] }
    for group in shipped.alerts
  ];
  [group for group in groups if group.rules != []];

{
  local keys = ['job', 'runbooks', 'dashboards', 'objective', 'thresholds', 'accounts', 'labels', 'disabled'],
  local config = self._config,
  assert known('_config', std.objectFields(config), keys),

  _config:: {
    job: shippedJob,
    runbooks: '',
    dashboards: '',
    objective: null,
    thresholds: {},
    accounts: {},
    labels: {},
    disabled: [],
  },

  prometheusRules+:: { groups+: recordings(config) },
  prometheusAlerts+:: { groups+: alerting(config) },
  grafanaDashboards+:: {
    'comms-overview.json': import '../../grafana/dashboards/comms-overview.json',
    'comms-operations.json': import '../../grafana/dashboards/comms-operations.json',
    'comms-deliverability.json': import '../../grafana/dashboards/comms-deliverability.json',
    'comms-exporter-health.json': import '../../grafana/dashboards/comms-exporter-health.json',
  },
}
