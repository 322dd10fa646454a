"""Conditions under which an asset is materialized automatically, because its inputs have changed."""

import dagster as dg

RETRY = "0 * * * *"
"""When a change whose run failed is tried again: at the full hour."""


def follows(*but: str) -> dg.AutomationCondition:
    """Follow new data versions of upstream assets, once each, without losing a change whose run fails.

    All assets that a change reaches are requested together, as one run, if the upstream checks have passed before. A
    change during a run is followed after it. After a failed run the same change is tried again at the next full hour,
    and a further change at once; a cancelled run is not repeated. An asset that waits for an upstream asset that is
    missing, in progress or blocked by a check is materialized when that is over.

    Args:
        but: upstream assets that are not followed and may be missing.
    """
    condition = dg.AutomationCondition
    changed = condition.data_version_changed() | condition.will_be_requested()
    # A run that materializes this asset too brings it no news.
    elsewhere = condition.any_deps_match(
        (condition.data_version_changed() & ~condition.executed_with_root_target()) | condition.will_be_requested()
    )
    # A request is seen at the tick after it; what has changed again by then was not requested.
    requested = condition.newly_requested() & ~elsewhere
    # Dagster stores each "since" by the kinds of its two operands, so no two of these may have the same kinds.
    news = elsewhere.since(requested | condition.initial_evaluation())
    outstanding = (condition.any_deps_match(changed) | condition.newly_requested()).since(condition.newly_updated())
    an_hour_passed = condition.cron_tick_passed(RETRY).since(
        condition.newly_requested() | condition.in_progress() | condition.initial_evaluation()
    )
    again = outstanding & condition.execution_failed() & an_hour_passed
    ready = (
        ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & condition.all_deps_blocking_checks_passed()
    )
    wanted = (news.with_label("an input changed") | again.with_label("failed, to be tried again")) & ready
    if but:
        wanted = wanted.ignore(dg.AssetSelection.assets(*but))
    return wanted.with_label("follows its inputs")
