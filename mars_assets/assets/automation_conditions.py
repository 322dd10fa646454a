"""Conditions that materialize an asset when its inputs have changed."""

import dagster as dg

RETRY = "0 * * * *"
"""When a change whose run failed is retried: at the full hour."""


def follows(*but: str) -> dg.AutomationCondition:
    """Build the condition that upstream assets have new data versions.

    Each change triggers one run, and none is lost if its run fails. All assets affected by a change are requested
    together, as one run, if the upstream checks have passed. A change during a run triggers another run after it. After
    a failed run the same change is retried at the next full hour, and a further change triggers a run at once; a
    cancelled run is not repeated. An asset that waits for an upstream asset that is missing, in progress or blocked by
    a check is materialized as soon as it is not.

    Args:
        but: upstream assets that are not followed and may be missing.
    """
    condition = dg.AutomationCondition
    changed = condition.data_version_changed() | condition.will_be_requested()
    # A run that also materializes this asset is no reason to run it again.
    elsewhere = condition.any_deps_match(
        (condition.data_version_changed() & ~condition.executed_with_root_target()) | condition.will_be_requested()
    )
    # A request becomes visible at the next tick; a change in between is not covered by it.
    requested = condition.newly_requested() & ~elsewhere
    # Dagster identifies each "since" by the types of its operands, so no two of them may have the same operand types.
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
    wanted = (news.with_label("an input changed") | again.with_label("retry after a failure")) & ready
    if but:
        wanted = wanted.ignore(dg.AssetSelection.assets(*but))
    return wanted.with_label("follows its inputs")
