//! From an edit to the revisions that carry it out: pure.
//!
//! An edit applies to whatever chain is in force: a range that was corrected before has several, and each is edited by
//! itself. So one correction is a *group* of revisions. Where revisions with filters lie over each other, the order among
//! them is kept: of two that a record matches, the same one wins as before.
//!
//! What decides no record is left out (`without_what_decides_nothing`). So a correction with the filter of an earlier one
//! does not grow, and one that sets a whole chain is one revision. What remains is a revision for each *combination* of filters
//! that a record may match: edits with `k` filters on different columns of one range are up to 2ᵏ chains, because so many
//! different chains are in force there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use millrace_timeline::{ChainSpec, Filter, Kind, OffsetRange, Ranges, Revision, StepSpec, Timeline};

/// A change of a chain, its plugins pinned.
#[derive(Clone, Debug)]
pub enum Edit {
    /// This chain, whatever was in force.
    Chain(ChainSpec),
    /// Another step in the place of each step of this plugin, `name@version`. By the step that is replaced, since it may
    /// take its configuration over.
    Replace {
        /// The plugin that is replaced.
        step: String,
        /// The step that takes its place, by the JSON of the step that it replaces.
        by: BTreeMap<String, StepSpec>,
    },
    /// A further step.
    Insert {
        /// The step.
        step: Box<StepSpec>,
        /// The plugin in front of whose first step it goes, as `name` or `name@version`; `None`: behind the last.
        before: Option<String>,
    },
    /// Without each step of this plugin, `name@version`.
    Remove(String),
}

/// What a step is known by among those that an edit replaces.
pub(crate) fn step_key(step: &StepSpec) -> String {
    // A step is plain data: it always serializes.
    serde_json::to_string(step).unwrap_or_default()
}

impl Edit {
    /// The chain after the edit; `None` where it does not change it.
    fn apply(&self, chain: &ChainSpec) -> Option<ChainSpec> {
        let names = |step: &StepSpec, plugin: &str| step.plugin.name == plugin || step.plugin.to_string() == plugin;
        let mut steps = chain.steps.clone();
        match self {
            Self::Chain(new) => return Some(new.clone()),
            Self::Replace { step: plugin, by } => {
                for step in steps.iter_mut().filter(|step| names(step, plugin)) {
                    *step = by.get(&step_key(step))?.clone();
                }
            }
            Self::Insert { step, before: Some(before) } => {
                let at = steps.iter().position(|other| names(other, before))?;
                steps.insert(at, step.as_ref().clone());
            }
            Self::Insert { step, before: None } => steps.push(step.as_ref().clone()),
            Self::Remove(plugin) => steps.retain(|step| !names(step, plugin)),
        }
        let edited = ChainSpec { semantics: chain.semantics, steps };
        (!edited.does_the_same_as(chain)).then_some(edited)
    }

    /// What it looks for in a chain, for the message that no chain has it.
    pub(crate) fn anchor(&self) -> Option<&str> {
        match self {
            Self::Replace { step, .. } | Self::Remove(step) => Some(step),
            Self::Insert { before, .. } => before.as_deref(),
            Self::Chain(_) => None,
        }
    }
}

/// One revision of a plan, before it has an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The offsets.
    pub ranges: Ranges,
    /// Which records of them.
    pub filter: Filter,
    /// The chain.
    pub chain: ChainSpec,
}

/// Who asks for a correction, why and when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) author: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) at_us: i64,
}

/// The revisions of a plan as they follow on a timeline that ends at `head`: one group.
pub(crate) fn revisions(head: u64, planned: &[Planned], asked: Asked<'_>) -> Vec<Revision> {
    let first = head + 1;
    (first..)
        .zip(planned)
        .map(|(id, planned)| Revision {
            id,
            kind: Kind::Correct,
            ranges: planned.ranges.clone(),
            filter: planned.filter.clone(),
            group: Some(first),
            chain: planned.chain.clone(),
            author: asked.author.to_owned(),
            reason: asked.reason.to_owned(),
            created_at_us: asked.at_us,
        })
        .collect()
}

/// A planned revision while it is put together.
struct Entry {
    /// How far down it stands among the candidates of its piece: the lowest come first.
    level: usize,
    filter: Filter,
    chain: ChainSpec,
    ranges: BTreeMap<u32, Range<u64>>,
}

impl Entry {
    /// Takes a range in, if it is the same revision's and leaves one range a partition.
    fn takes(&mut self, level: usize, filter: &Filter, chain: &ChainSpec, partition: u32, range: &Range<u64>) -> bool {
        if self.level != level || self.filter != *filter || self.chain != *chain {
            return false;
        }
        match self.ranges.get_mut(&partition) {
            None => {
                self.ranges.insert(partition, range.clone());
                true
            }
            Some(known) if known.end == range.start => {
                known.end = range.end;
                true
            }
            Some(_) => false,
        }
    }
}

/// The revisions, in the order of their ids, by which `edit` comes into force for the records of `ranges` that match
/// `filter`. Empty where the edit changes no chain there.
pub fn plan(timeline: &Timeline, edit: &Edit, ranges: &BTreeMap<u32, Range<u64>>, filter: &Filter) -> Vec<Planned> {
    let mut entries: Vec<Entry> = Vec::new();
    for (partition, offsets) in ranges {
        for (range, candidates) in timeline.segments(timeline.head(), *partition, offsets.clone()) {
            // From the lowest, which has no filter, up.
            let mut stack: Vec<(Filter, ChainSpec)> = Vec::new();
            for revision in candidates.into_iter().rev() {
                let Some(matching) = filter.and(&revision.filter) else { continue };
                let edited = edit.apply(&revision.chain);
                if edited.is_none() && stack.is_empty() {
                    // Nothing below it changes: it stays in force by itself.
                    continue;
                }
                // What stands above something that changes must be said again, or that would lie above it.
                stack.push((matching, edited.unwrap_or_else(|| revision.chain.clone())));
            }
            for (level, (filter, chain)) in without_what_decides_nothing(stack).into_iter().enumerate() {
                if !entries.iter_mut().any(|e| e.takes(level, &filter, &chain, *partition, &range)) {
                    let ranges = BTreeMap::from([(*partition, range.clone())]);
                    entries.push(Entry { level, filter, chain, ranges });
                }
            }
        }
    }
    entries.sort_by_key(|entry| entry.level);
    entries
        .into_iter()
        .map(|Entry { filter, chain, ranges, .. }| {
            let partitions = ranges
                .into_iter()
                .map(|(partition, range)| (partition, OffsetRange { start: range.start, end: Some(range.end) }));
            Planned { ranges: Ranges { partitions: partitions.collect(), later_partitions: false }, filter, chain }
        })
        .collect()
}

/// What an edit does to chains that whoever asks for it may not mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Plugins that a chain has and would have no more.
    pub loses: BTreeSet<String>,
    /// The plugin of a further step that a chain has already.
    pub twice: Option<String>,
}

impl Effects {
    /// As sentences.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.loses.is_empty() {
            let loses: Vec<&str> = self.loses.iter().map(String::as_str).collect();
            notes.push(format!("rows are made without {} that were made with it", loses.join(", ")));
        }
        if let Some(plugin) = &self.twice {
            notes.push(format!("some of the chains have a step of {plugin} already: theirs would run twice"));
        }
        notes
    }
}

/// The effects of an edit on the chains in force for the records of `ranges` that may match `filter`.
pub fn effects(timeline: &Timeline, edit: &Edit, ranges: &BTreeMap<u32, Range<u64>>, filter: &Filter) -> Effects {
    let names =
        |chain: &ChainSpec| -> BTreeSet<String> { chain.steps.iter().map(|step| step.plugin.name.clone()).collect() };
    let mut effects = Effects::default();
    for (partition, offsets) in ranges {
        for (_, candidates) in timeline.segments(timeline.head(), *partition, offsets.clone()) {
            for revision in candidates.into_iter().filter(|revision| filter.and(&revision.filter).is_some()) {
                let Some(after) = edit.apply(&revision.chain) else { continue };
                let before = names(&revision.chain);
                effects.loses.extend(before.difference(&names(&after)).cloned());
                if let Edit::Insert { step, .. } = edit
                    && before.contains(&step.plugin.name)
                {
                    effects.twice = Some(step.plugin.name.clone());
                }
            }
        }
    }
    effects
}

/// What is left of filters and chains over the same offsets, the lowest first, when those go that decide no record: whatever
/// such a one matches matches one above it, or finds the same chain below it.
fn without_what_decides_nothing(stack: Vec<(Filter, ChainSpec)>) -> Vec<(Filter, ChainSpec)> {
    let mut seen: Vec<(Filter, ChainSpec)> = Vec::with_capacity(stack.len());
    // From the highest down: what is above each is known to decide something.
    for (filter, chain) in stack.into_iter().rev() {
        if !seen.iter().any(|(above, _)| above.covers(&filter)) {
            seen.push((filter, chain));
        }
    }
    let mut left: Vec<(Filter, ChainSpec)> = Vec::with_capacity(seen.len());
    for (filter, chain) in seen.into_iter().rev() {
        let same_below = left.iter().rev().find_map(|(below, other)| match *other == chain {
            true => below.covers(&filter).then_some(true),
            false => below.and(&filter).is_some().then_some(false),
        });
        if same_below != Some(true) {
            left.push((filter, chain));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_timeline::PluginRef;
    use proptest::prelude::*;

    fn step(name: &str) -> StepSpec {
        let (name, version) = name.split_once('@').unwrap_or((name, "1.0.0"));
        let plugin = PluginRef { name: name.into(), version: version.into(), sha256: String::new() };
        StepSpec {
            plugin,
            config: "{}".into(),
            limits: serde_json::json!({}),
            halts: false,
            tables: vec![],
            manifest: None,
        }
    }

    fn chain(steps: &[&str]) -> ChainSpec {
        ChainSpec { semantics: 1, steps: steps.iter().map(|name| step(name)).collect() }
    }

    fn revision(id: u64, ranges: Ranges, filter: Filter, chain: ChainSpec) -> Revision {
        Revision {
            id,
            kind: if id == 1 { Kind::Activate } else { Kind::Correct },
            ranges,
            filter,
            group: None,
            chain,
            author: String::new(),
            reason: String::new(),
            created_at_us: 0,
        }
    }

    fn app(name: &str) -> Filter {
        Filter::default().with("app", [name])
    }

    fn closed(partition: u32, range: Range<u64>) -> Ranges {
        let range = OffsetRange { start: range.start, end: Some(range.end) };
        Ranges { partitions: BTreeMap::from([(partition, range)]), later_partitions: false }
    }

    fn replace(from: &str, to: &str) -> Edit {
        Edit::Replace { step: from.into(), by: BTreeMap::from([(step_key(&step(from)), step(to))]) }
    }

    fn names(chain: &ChainSpec) -> Vec<String> {
        chain.steps.iter().map(|step| step.plugin.to_string()).collect()
    }

    /// A timeline of an activation in the middle and a correction with a filter over both.
    fn history() -> Timeline {
        Timeline::new(vec![
            revision(1, Ranges::everything(), Filter::default(), chain(&["a", "b"])),
            revision(2, Ranges::from_ends([(0, 100), (1, 100)]), Filter::default(), chain(&["b"])),
            revision(3, closed(0, 50..150), app("shop"), chain(&["a", "c"])),
        ])
        .unwrap()
    }

    /// What is in force after the plan is the edit of what was, for every record.
    fn check(timeline: &Timeline, edit: &Edit, ranges: &BTreeMap<u32, Range<u64>>, filter: &Filter) -> usize {
        let planned = plan(timeline, edit, ranges, filter);
        let later = revisions(timeline.head(), &planned, Asked::default());
        let after = Timeline::new([timeline.revisions(), &later].concat()).unwrap();
        for partition in 0..3 {
            for offset in 0..200 {
                for app in ["shop", "news", "game"] {
                    let matches = |filter: &Filter| filter.matches(|_| Some(app));
                    let before = &timeline.in_force_for(u64::MAX, partition, offset, matches).unwrap().chain;
                    let covered = ranges.get(&partition).is_some_and(|r| r.contains(&offset)) && matches(filter);
                    let expected = match edit.apply(before) {
                        Some(edited) if covered => edited,
                        _ => before.clone(),
                    };
                    let found = &after.in_force_for(u64::MAX, partition, offset, matches).unwrap().chain;
                    assert_eq!(names(found), names(&expected), "partition {partition}, offset {offset}, app {app}");
                }
            }
        }
        planned.len()
    }

    #[test]
    fn an_edit_applies_to_each_chain_in_force_and_to_nothing_else() {
        let timeline = history();
        let ranges = BTreeMap::from([(0, 20..180), (1, 90..120)]);
        for filter in [Filter::default(), app("shop"), app("news")] {
            for edit in [
                replace("a@1.0.0", "a@2.0.0"),
                replace("b@1.0.0", "b@2.0.0"),
                replace("c@1.0.0", "c@2.0.0"),
                Edit::Insert { step: Box::new(step("new")), before: Some("b".into()) },
                Edit::Insert { step: Box::new(step("new")), before: None },
                Edit::Remove("b@1.0.0".into()),
                Edit::Chain(chain(&["z"])),
            ] {
                assert!(check(&timeline, &edit, &ranges, &filter) <= 5);
            }
        }
    }

    #[test]
    fn steps_that_are_lost_or_there_twice_are_told() {
        let timeline = history();
        let ranges = BTreeMap::from([(0, 20..180)]);
        let of = |edit: Edit, filter: Filter| effects(&timeline, &edit, &ranges, &filter);
        let lost = |names: &[&str]| Effects { loses: names.iter().map(|n| (*n).to_owned()).collect(), twice: None };
        assert_eq!(of(Edit::Remove("b@1.0.0".into()), Filter::default()), lost(&["b"]));
        assert_eq!(of(Edit::Chain(chain(&["b", "z"])), app("news")), lost(&["a"]));
        assert_eq!(of(replace("a@1.0.0", "a@2.0.0"), Filter::default()), lost(&[]));
        let insert = |name: &str| Edit::Insert { step: Box::new(step(name)), before: None };
        assert_eq!(of(insert("new"), Filter::default()), lost(&[]));
        assert_eq!(of(insert("c@2.0.0"), app("news")), lost(&[]), "only the shop's chain has it");
        let twice = of(insert("c@2.0.0"), Filter::default());
        assert_eq!(twice.twice.as_deref(), Some("c"));
        assert!(twice.notes()[0].contains("a step of c already"));
    }

    #[test]
    fn ranges_of_one_chain_become_one_revision() {
        let first = revision(1, Ranges::everything(), Filter::default(), chain(&["a"]));
        let timeline = Timeline::new(vec![first]).unwrap();
        let ranges = (0..16).map(|partition| (partition, 10..20)).collect();
        let planned = plan(&timeline, &replace("a@1.0.0", "a@2.0.0"), &ranges, &app("shop"));
        assert_eq!(planned.len(), 1);
        assert_eq!((planned[0].ranges.partitions.len(), &planned[0].filter), (16, &app("shop")));
        assert!(plan(&timeline, &replace("x@1.0.0", "a@2.0.0"), &ranges, &Filter::default()).is_empty());
    }

    /// The timeline after a correction of everything.
    fn corrected(timeline: &Timeline, edit: &Edit, filter: &Filter) -> (Timeline, usize) {
        let planned = plan(timeline, edit, &BTreeMap::from([(0, 0..200)]), filter);
        let later = revisions(timeline.head(), &planned, Asked::default());
        (Timeline::new([timeline.revisions(), &later].concat()).unwrap(), planned.len())
    }

    #[test]
    fn corrections_with_the_same_filters_do_not_grow_and_a_chain_is_one_revision() {
        let first = revision(1, Ranges::everything(), Filter::default(), chain(&["a"]));
        let mut timeline = Timeline::new(vec![first]).unwrap();
        let insert = |name: String| Edit::Insert { step: Box::new(step(&name)), before: None };
        for round in 0..20 {
            let apps = ["shop", "news", "game"];
            let planned;
            (timeline, planned) = corrected(&timeline, &insert(format!("step{round}")), &app(apps[round % 3]));
            assert_eq!(planned, 1, "round {round}");
        }
        let (everything, planned) = corrected(&timeline, &insert("last".into()), &Filter::default());
        assert_eq!(planned, 4, "each app, and what is of none");
        // Two columns: what matches both is a chain of its own.
        let platform = Filter::default().with("platform", ["ios"]);
        assert_eq!(corrected(&everything, &insert("ios".into()), &platform).1, 4);
        for filter in [Filter::default(), platform] {
            assert_eq!(corrected(&everything, &Edit::Chain(chain(&["z"])), &filter).1, 1);
        }
    }

    fn any_stack() -> impl Strategy<Value = Vec<(Filter, ChainSpec)>> {
        let values = proptest::collection::btree_set(prop_oneof![Just("1".to_owned()), Just("2".to_owned())], 1..3);
        let columns = proptest::collection::btree_map("[xy]", values, 0..3);
        let entry =
            (columns, 0..3usize).prop_map(|(columns, name)| (Filter { columns }, chain(&[["a", "b", "c"][name]])));
        proptest::collection::vec(entry, 0..8)
    }

    proptest! {
        #[test]
        fn what_goes_decides_nothing_and_what_stays_decides_something(stack in any_stack()) {
            let records: Vec<BTreeMap<&str, &str>> = ["", "1", "2"]
                .into_iter()
                .flat_map(|x| ["", "1", "2"].map(|y| [("x", x), ("y", y)]))
                .map(|columns| columns.into_iter().filter(|(_, value)| !value.is_empty()).collect())
                .collect();
            let decided = |stack: &[(Filter, ChainSpec)]| -> Vec<Option<ChainSpec>> {
                let of = |record: &BTreeMap<&str, &str>| {
                    let matching = stack.iter().rev().find(|(filter, _)| filter.matches(|name| record.get(name).copied()));
                    matching.map(|(_, chain)| chain.clone())
                };
                records.iter().map(of).collect()
            };
            let left = without_what_decides_nothing(stack.clone());
            prop_assert_eq!(decided(&left), decided(&stack));
            prop_assert!(left.len() <= stack.len());
        }
    }

    #[test]
    fn a_correction_again_is_an_edit_of_the_correction() {
        let ranges = BTreeMap::from([(0, 0..200)]);
        let timeline = history();
        assert_eq!(check(&timeline, &replace("c@1.0.0", "c@2.0.0"), &ranges, &Filter::default()), 1);
    }
}
