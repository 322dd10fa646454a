"""When an asset is made again by itself, because what it is made of has changed."""

import dagster as dg

RETRY = "0 * * * *"
"""After a failed run the same change is tried again at the full hour."""


def follows(*but: str) -> dg.AutomationCondition:
    """Follows new data versions of what is above, once each; a change is not lost where its run fails.

    Everything that a change reaches is requested at once, as one run. After a failure a further change is followed at once, the
    same one once an hour until the asset is there. What only waits, for what is missing, in progress or blocked by a check, is
    made when it no longer has to.

    Args:
        but: assets above that are not followed and need not be there.
    """
    condition = dg.AutomationCondition
    changed = condition.any_deps_match(condition.data_version_changed() | condition.will_be_requested())
    news = changed.since(condition.newly_requested() | condition.newly_updated() | condition.initial_evaluation())
    # Dagster keeps a "since" by the kinds of its two parts alone: with an "or" for a second part too, this would be the one above.
    again = (
        changed.since(condition.newly_updated())
        & condition.execution_failed()
        & condition.cron_tick_passed(RETRY).since(condition.newly_requested() | condition.initial_evaluation())
    )
    ready = (
        ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & condition.all_deps_blocking_checks_passed()
    )
    wanted = (news.with_label("changed above") | again.with_label("failed, an hour has passed")) & ready
    if but:
        wanted = wanted.ignore(dg.AssetSelection.assets(*but))
    return wanted.with_label("follows what is above")
