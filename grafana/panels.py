"""Builders for panels, variables and dashboards in a common style."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    prometheus,
    stat,
    statetimeline,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
# The longest supported scrape interval. As the minimum interval of queries, it makes $__rate_interval at least 4 minutes.
SCRAPE = "1m"

# Red is reserved for problems.
BAD, WARNING, GOOD, CALM = "red", "orange", "green", "text"
COLORS = {
    "created": "light-blue",
    "emails": "light-blue",
    "scheduled": "super-light-blue",
    "queued": "yellow",
    "sent": "blue",
    "delivered": "green",
    "opened": "purple",
    "undelivered": "orange",
    "failed": "red",
    "canceled": "#8e8e8e",
}
STATUSES = {
    "SCHEDULED": COLORS["scheduled"],
    "PROCESSING": COLORS["queued"],
    "COMPLETED": COLORS["delivered"],
    "CANCELED": COLORS["canceled"],
}

Steps = Sequence[tuple[float | None, str]]
Panel = timeseries.Panel | stat.Panel | table.Panel | bargauge.Panel | statetimeline.Panel
P = TypeVar("P", timeseries.Panel, stat.Panel, table.Panel, bargauge.Panel, statetimeline.Panel)


class Query(NamedTuple):
    """A query to Prometheus, its legend, and the style of its lines."""

    expr: str
    legend: str = ""
    color: str = ""
    style: tuple[tuple[str, Any], ...] = ()


class Column(NamedTuple):
    """A column of a table: a label, or the value of *expr*; *properties* are Grafana's field options."""

    name: str
    expr: str = ""
    unit: str = ""
    properties: tuple[tuple[str, Any], ...] = ()
    width: int = 0


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    maximum: float | None = None,
    stacked: bool = False,
    steps: Steps = (),
    side: bool = False,
    decimals: int | None = None,
    colors: dict[str, str] | None = None,
) -> timeseries.Panel:
    """Return lines over time, with an axis from 0 and a dashed line at each of *steps*.

    A long legend goes to the *side*.
    """
    panel = _panel(timeseries.Panel(), title, description, queries, unit=unit, width=width, height=height)
    panel.min(0).line_width(1).fill_opacity(60 if stacked else 0 if side else 8)
    panel.show_points(VisibilityMode.NEVER)
    # One missed poll is not a gap, five minutes without a poll are.
    panel.span_nulls(5 * 60 * 1000)
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    legend = common.VizLegendOptions().show_legend(True)
    if side:
        legend.display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.RIGHT).calcs(["lastNotNull", "max"])
    else:
        legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).calcs(["lastNotNull"])
    panel.legend(legend)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if maximum is None:
        # Keeps small values small: on an axis up to 0.001 they would look important.
        panel.axis_soft_max(0.02 if unit == "percentunit" else 1)
    else:
        panel.max(maximum)
    if decimals is not None:
        panel.decimals(decimals)
    if steps:
        panel.thresholds(_thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_fixed(color)])
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        properties = list(query.style)
        if query.color:
            # Several series of one query get shades of the color.
            properties.append(
                ("color", {"mode": "shades" if "{{" in query.legend else "fixed", "fixedColor": query.color})
            )
        if properties:
            panel.override_by_query(letter, [DynamicConfigValue(id_val=key, value=value) for key, value in properties])
    return panel


def number(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 3,
    height: int = 4,
    steps: Steps = ((None, CALM),),
    mapping: dict[str, tuple[str, str]] | None = None,
    decimals: int | None = None,
    no_value: str = "no data",
) -> stat.Panel:
    """Return a panel with the current value in large print, or with the text *no_value* if there is none."""
    panel = _panel(stat.Panel(), title, description, queries, unit=unit, width=width, height=height, instant=True)
    panel.color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.NONE)
    panel.text_mode(BigValueTextMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.thresholds(_thresholds(steps)).no_value(no_value)
    if decimals is not None:
        panel.decimals(decimals)
    if mapping:
        panel.mappings([_mapping(mapping)])
    return panel


def bars(title: str, description: str, *queries: Query, width: int = 8, height: int = 8) -> bargauge.Panel:
    """Return a panel with the current value of each query as a bar."""
    panel = _panel(bargauge.Panel(), title, description, queries, width=width, height=height, instant=True)
    panel.orientation(VizOrientation.HORIZONTAL).display_mode(BarGaugeDisplayMode.BASIC).min(0).show_unfilled(True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.override_by_query(letter, [_fixed(query.color)])
    return panel


def states(
    title: str,
    description: str,
    query: Query,
    *,
    mapping: dict[str, tuple[str, str]],
    rename: tuple[str, str],
    height: int = 9,
) -> statetimeline.Panel:
    """Return a panel with the state of each series over time."""
    panel = _panel(statetimeline.Panel(), title, description, [query], unit="none", width=24, height=height)
    panel.mappings([_mapping(mapping)]).with_transformation(renamed(*rename)).row_height(0.8).merge_values(True)
    panel.show_value(VisibilityMode.AUTO).color_scheme(builders.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    panel.legend(common.VizLegendOptions().show_legend(False))
    return panel


def rows(
    title: str,
    description: str,
    *columns: Column,
    sort: str,
    width: int = 24,
    height: int = 9,
    no_value: str = "nothing to show",
) -> table.Panel:
    """Return a table, sorted by the column *sort* in descending order. The first columns are labels."""
    labels = [column.name for column in columns if not column.expr]
    values = [column for column in columns if column.expr]
    queries = [Query(column.expr) for column in values]
    panel = _panel(
        table.Panel(),
        title,
        description,
        queries,
        unit="locale",
        width=width,
        height=height,
        instant=True,
        tabular=True,
    )
    panel.min_width(80).no_value(no_value).sort_by([common.TableSortByFieldState().display_name(sort).desc(True)])
    shown = {label: title_of(label) for label in labels}
    shown |= {f"Value #{letter}": column.name for letter, column in zip(ascii_uppercase, values, strict=False)}
    options = {
        "excludeByName": {"Time": True, "job": True},
        "indexByName": {name: place for place, name in enumerate(shown)},
        "renameByName": shown,
    }
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=options))
    for column in columns:
        properties = list(column.properties)
        if column.unit:
            properties.insert(0, ("unit", column.unit))
        if column.width:
            properties.insert(0, ("custom.width", column.width))
        name = column.name if column.expr else title_of(column.name)
        if properties:
            panel.override_by_name(name, [DynamicConfigValue(id_val=key, value=value) for key, value in properties])
    return panel


def prose(markdown: str, *, height: int = 2) -> text.Panel:
    """Return a panel with text across the whole width."""
    return text.Panel().title("").transparent(True).mode(TextMode.MARKDOWN).content(markdown).span(24).height(height)


def section(title: str) -> builders.Row:
    """Return the heading of a section."""
    return builders.Row(title)


def title_of(label: str) -> str:
    """Return the title of the column for *label*."""
    return {"operation_id": "Operation"}.get(label, label.replace("_", " ").capitalize())


def colored(steps: Steps) -> tuple[tuple[str, Any], ...]:
    """Return options that color the text of table cells by *steps*."""
    return (
        ("thresholds", {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}),
        ("custom.cellOptions", {"type": "color-text"}),
    )


def mapped(mapping: dict[str, tuple[str, str]]) -> tuple[tuple[str, Any], ...]:
    """Return options that show numbers in a table as colored words."""
    options = {value: {"text": word, "color": color} for value, (word, color) in mapping.items()}
    return ("mappings", [{"type": "value", "options": options}]), ("custom.cellOptions", {"type": "color-text"})


def renamed(pattern: str, by: str) -> DataTransformerConfig:
    """Return a transformation that renames series."""
    return DataTransformerConfig(id_val="renameByRegex", options={"regex": pattern, "renamePattern": by})


def dashboard(uid: str, title: str, description: str, *, operations: bool = False) -> builders.Dashboard:
    """Return a dashboard without panels, with variables, alert annotations and links to the other dashboards."""
    builder = builders.Dashboard(title).uid(uid).description(description).tags(["comms-exporter"]).readonly()
    builder.timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR).refresh("1m").time("now-6h", "now")
    builder.with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    exporter = 'job=~"$job", instance=~"$instance"'
    builder.with_variable(_variable("job", "Job", "label_values(comms_exporter_build_info, job)"))
    builder.with_variable(
        _variable("instance", "Instance", 'label_values(comms_exporter_build_info{job=~"$job"}, instance)')
    )
    builder.with_variable(_variable("account", "Account", f"label_values(comms_up{{{exporter}}}, account)"))
    if operations:
        source = f'comms_email_operation_emails{{{exporter}, account=~"$account"}}'
        builder.with_variable(_variable("operation_id", "Operation", f"label_values({source}, operation_id)"))
    builder.annotation(
        builders.AnnotationQuery()
        .name("Firing alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        # Alerts about the exporter itself have no label account.
        .expr('ALERTS{alertstate="firing", alertname=~"Comms.*", account=~"$account|"}')
        .step("60s")
        .title_format("{{alertname}}")
        .text_format("{{severity}} {{account}} {{reason}}")
    )
    builder.link(
        builders.DashboardLink("Email dashboards")
        .type(DashboardLinkType.DASHBOARDS)
        .tags(["comms-exporter"])
        .include_vars(True)
        .keep_time(True)
    )
    return builder


def _panel(
    panel: P,
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    width: int,
    height: int,
    instant: bool = False,
    tabular: bool = False,
) -> P:
    panel.title(title).description(description).datasource(SOURCE).unit(unit).span(width).height(height)
    panel.interval(SCRAPE)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expr).interval(SCRAPE).legend_format(query.legend)
        target = target.instant() if instant else target.range()
        panel.with_target(target.format(PromQueryFormat.TABLE if tabular else PromQueryFormat.TIME_SERIES))
    return panel


def _fixed(color: str) -> DynamicConfigValue:
    return DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})


def _thresholds(steps: Steps) -> builders.ThresholdsConfig:
    builder = [Threshold(value=value, color=color) for value, color in steps]
    return builders.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(builder)


def _mapping(mapping: dict[str, tuple[str, str]]) -> ValueMap:
    results = {
        value: ValueMappingResult(text=word, color=color, index=place)
        for place, (value, (word, color)) in enumerate(mapping.items())
    }
    return ValueMap(options=results)


def _variable(name: str, label: str, query: str) -> builders.QueryVariable:
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    builder = builders.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    builder.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return builder.multi(True).include_all(True).all_value(".+").current(everything)
