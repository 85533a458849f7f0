//! Retention against a model that knows nothing of bounds: it walks the way of a recovery from each
//! kept backup, segment by segment, along each line of history.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SIZE: SegmentSize = SegmentSize::MIN;

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn at(segment: u64, offset: u64) -> Lsn {
    Lsn::new(segment * SIZE.bytes() + offset)
}

fn time(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

/// A world: timelines that left older ones, the segments that are there, backups and holds.
#[derive(Clone, Debug)]
struct World {
    inventory: Inventory,
    /// Those that are there: gaps are missing.
    segments: BTreeSet<(TimelineId, SegmentNumber)>,
    policy: Policy,
}

/// Its numbers, of which anything makes a world.
#[derive(Clone, Debug)]
struct Seeds {
    /// Parent, and where it is left, segments and bytes behind the parent's own beginning.
    forks: Vec<(u32, u64, u64)>,
    /// How many segments each timeline has of its own.
    lengths: Vec<u64>,
    /// Segments that are missing.
    gaps: Vec<(u32, u64)>,
    /// Timeline, segment behind its beginning, length, seconds that it takes, what is wrong.
    backups: Vec<(u32, u64, u64, i64, u8)>,
    /// Timeline, or none, and segment.
    holds: Vec<(Option<u32>, u64)>,
    keep: Option<usize>,
    since: Option<i64>,
    unknown: u8,
}

fn seeds() -> impl Strategy<Value = Seeds> {
    let backup = (1..5_u32, 0..30_u64, 0..3_u64, 0..20_i64, any::<u8>());
    (
        prop::collection::vec((1..5_u32, 0..12_u64, 0..2_u64), 0..4),
        prop::collection::vec(1..30_u64, 5),
        prop::collection::vec((1..5_u32, 0..40_u64), 0..4),
        prop::collection::vec(backup, 0..9),
        prop::collection::vec((prop::option::of(1..5_u32), 0..40_u64), 0..3),
        prop::option::of(1..5_usize),
        prop::option::of(0..300_i64),
        any::<u8>(),
    )
        .prop_map(|(forks, lengths, gaps, backups, holds, keep, since, unknown)| Seeds {
            forks,
            lengths,
            gaps,
            backups,
            holds,
            keep,
            since,
            unknown,
        })
}

fn world(seeds: &Seeds) -> World {
    let mut lines = vec![Branch::root(timeline(1))];
    let mut begins = vec![at(1, 0)];
    for (place, (parent, segments, bytes)) in seeds.forks.iter().enumerate() {
        let id = u32::try_from(place).unwrap() + 2;
        let parent = (*parent).min(id - 1);
        let old = &lines[parent as usize - 1];
        let left =
            begins[parent as usize - 1].saturating_add(segments * SIZE.bytes() + bytes * 4096);
        let mut history = String::new();
        for stretch in old.stretches() {
            let end = stretch.end.unwrap_or(left);
            history += &format!("{}\t{end}\n", stretch.timeline);
        }
        lines.push(Branch::parse(timeline(id), history.as_bytes()).unwrap());
        begins.push(left);
    }
    let mut segments = BTreeSet::new();
    for (place, begin) in begins.iter().enumerate() {
        let id = timeline(u32::try_from(place).unwrap() + 1);
        let first = begin.segment(SIZE).as_u64();
        segments.extend((first..first + seeds.lengths[place]).map(|n| (id, SegmentNumber::new(n))));
    }
    for (on, number) in &seeds.gaps {
        segments.remove(&(timeline(*on), SegmentNumber::new(*number)));
    }
    let mut timelines = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        let id = line.timeline();
        let mut own = segments.iter().filter(|(on, _)| *on == id).map(|(_, number)| *number);
        let Some(first) = own.next() else { continue };
        let last = own.next_back().unwrap_or(first);
        // Now and then a history was lost.
        let known = place == 0 || seeds.unknown != u8::try_from(place).unwrap();
        timelines.insert(id, (known.then(|| line.clone()), first, last));
    }
    let mut clock = 0;
    let backups = seeds.backups.iter().enumerate().map(|(place, backup)| {
        let (on, segment, length, seconds, odd) = *backup;
        let on = (on as usize).min(lines.len());
        let begin = begins[on - 1].segment(SIZE).as_u64();
        let point = |segment, offset| Point {
            timeline: timeline(u32::try_from(on).unwrap()),
            lsn: at(segment, offset),
        };
        clock += seconds;
        Candidate {
            id: format!("b{place}"),
            start: point(begin + segment, 4096),
            stop: point(begin + segment + length, 8192),
            ended: (odd % 13 != 0).then(|| time(clock)),
            usable: odd % 5 != 0,
            needs: (place > 0 && odd % 4 == 1).then(|| format!("b{}", place - 1)),
            in_use: (odd % 11 == 2).then(|| "a restore".to_owned()),
        }
    });
    let mut backups: Vec<Candidate> = backups.collect();
    // Clocks go on as the WAL does.
    let mut times: Vec<_> = backups.iter().map(|backup| backup.ended).collect();
    times.sort_by_key(|time| time.unwrap_or(jiff::Timestamp::MIN));
    let mut order: Vec<usize> = (0..backups.len()).collect();
    order.sort_by_key(|place| (backups[*place].stop.lsn, backups[*place].id.clone()));
    for (place, time) in order.into_iter().zip(times) {
        backups[place].ended = time;
    }
    let holds = seeds.holds.iter().map(|(on, segment)| Hold {
        what: "a slot".to_owned(),
        timeline: on.map(|on| timeline(on.min(u32::try_from(lines.len()).unwrap()))),
        from: at(*segment, 100),
    });
    let policy =
        Policy { backups: seeds.keep.and_then(NonZeroUsize::new), since: seeds.since.map(time) };
    World { inventory: Inventory { backups, timelines, holds: holds.collect() }, segments, policy }
}

/// Every segment that a recovery along a line needs that begins at a position, if that lies on it.
fn way(
    line: &Branch,
    points: &[Point],
    from: Lsn,
    world: &World,
    into: &mut BTreeSet<(TimelineId, SegmentNumber)>,
) {
    for point in points {
        // Where the line is on at that position, by going through its history.
        let mut on = false;
        for stretch in line.stretches() {
            on |= stretch.timeline == point.timeline
                && stretch.end.is_none_or(|end| point.lsn <= end);
        }
        if !on {
            return;
        }
    }
    for (id, number) in &world.segments {
        // As a server looks for it: the newest timeline that had begun.
        let wanted = line.stretches().iter().rev().find(|on| on.begin.segment(SIZE) <= *number);
        if wanted.map(|on| on.timeline) == Some(*id) && number.end(SIZE) > from {
            into.insert((*id, *number));
        }
    }
}

/// A position on the timeline that a line was on when it was there.
fn at_on(line: &Branch, lsn: Lsn) -> Point {
    let stretches = line.stretches();
    let next = stretches.iter().position(|on| on.begin > lsn).unwrap_or(stretches.len());
    Point { timeline: stretches[next.saturating_sub(1)].timeline, lsn }
}

/// What is of use to anybody, of what there is.
fn useful(world: &World, plan: &Plan) -> BTreeSet<(TimelineId, SegmentNumber)> {
    let mut useful = BTreeSet::new();
    for (id, (line, ..)) in &world.inventory.timelines {
        let Some(line) = line else {
            useful.extend(world.segments.iter().filter(|(on, _)| on == id));
            continue;
        };
        for (backup, (_, fate)) in world.inventory.backups.iter().zip(&plan.backups) {
            if fate.is_kept() {
                way(line, &[backup.start, backup.stop], backup.start.lsn, world, &mut useful);
            }
        }
        for hold in &world.inventory.holds {
            // One on a timeline that isn't known any more is everybody's.
            let own = hold.timeline.and_then(|on| world.inventory.timelines.get(&on)?.0.as_ref());
            let points: Vec<Point> = own.map(|own| at_on(own, hold.from)).into_iter().collect();
            way(line, &points, hold.from, world, &mut useful);
        }
    }
    useful
}

fn on_newest(world: &World, backup: &Candidate) -> bool {
    let (_, (line, ..)) = world.inventory.timelines.iter().next_back().unwrap();
    let line = line.as_ref().unwrap();
    let is_on = |point: Point| {
        let mut stretches = line.stretches().iter();
        stretches
            .any(|on| on.timeline == point.timeline && on.end.is_none_or(|end| point.lsn <= end))
    };
    backup.usable && is_on(backup.start) && is_on(backup.stop)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_kept_is_what_is_needed_and_nothing_else(seeds in seeds()) {
        let world = world(&seeds);
        let plan = match Plan::of(&world.inventory, &world.policy, SIZE) {
            Ok(plan) => plan,
            Err(NoPlan::NoBackup(_)) => {
                prop_assert!(!world.inventory.backups.iter().any(|backup| on_newest(&world, backup)));
                return Ok(());
            }
            Err(NoPlan::NoHistory(id)) => {
                prop_assert!(world.inventory.timelines[&id].0.is_none());
                return Ok(());
            }
            Err(NoPlan::NoWal) => {
                prop_assert!(world.segments.is_empty());
                return Ok(());
            }
        };
        // WAL: just what is of use to something that is kept.
        let kept: BTreeSet<_> = world.segments.iter().copied()
            .filter(|(id, number)| *number >= plan.wal[id].from).collect();
        prop_assert_eq!(&kept, &useful(&world, &plan));
        // Backups: as many as were asked for, or all.
        let backups: Vec<_> = world.inventory.backups.iter().zip(&plan.backups).collect();
        let counted: Vec<_> = backups.iter().filter(|(backup, _)| on_newest(&world, backup)).collect();
        let stays = counted.iter().filter(|(_, (_, fate))| fate.is_kept()).count();
        let asked = world.policy.backups.map_or(1, NonZeroUsize::get).min(counted.len());
        prop_assert!(stays >= asked);
        // No newer one goes where an older one stays by its own right.
        for (one, (_, fate)) in &counted {
            for (other, (_, others)) in &counted {
                let own = matches!(others, Fate::Newest(_) | Fate::Reaches);
                if own && one.stop.lsn > other.stop.lsn {
                    prop_assert!(fate.is_kept(), "{} goes, {} stays", one.id, other.id);
                }
            }
        }
        // Each moment since then is reached from one that had ended, if any ever was.
        if let Some(since) = world.policy.since {
            let ended = |backup: &Candidate| backup.ended.is_some_and(|ended| ended <= since);
            let could = counted.iter().any(|(backup, _)| ended(backup));
            let can = counted.iter().any(|(backup, (_, fate))| ended(backup) && fate.is_kept());
            prop_assert_eq!(could, can);
            for (backup, (_, fate)) in &counted {
                let newer = |other: &Candidate| other.stop.lsn >= backup.stop.lsn && ended(other);
                let enough = counted.iter().any(|(other, _)| newer(other));
                prop_assert!(fate.is_kept() || enough, "{} is of that time", backup.id);
            }
        }
        // A chain is never cut, and nobody's backup is taken from under them.
        for (backup, (_, fate)) in &backups {
            prop_assert!(fate.is_kept() || backup.in_use.is_none());
            let parent = backup.needs.as_ref()
                .and_then(|needs| backups.iter().find(|(other, _)| other.id == *needs));
            if let Some((_, (_, parents))) = parent {
                prop_assert!(!fate.is_kept() || parents.is_kept());
            }
        }
        // Nothing stays without a reason that holds.
        for (backup, (_, fate)) in &backups {
            match fate {
                Fate::Newest(place) => prop_assert!(*place <= world.policy.backups.map_or(1, NonZeroUsize::get)),
                Fate::Reaches => prop_assert!(world.policy.since.is_some()),
                Fate::Needed(child) => {
                    let child = backups.iter().find(|(other, _)| other.id == *child).unwrap();
                    prop_assert!(child.1.1.is_kept() && child.0.needs.as_ref() == Some(&backup.id));
                }
                Fate::Beside => prop_assert!(!on_newest(&world, backup)),
                Fate::InUse(_) => prop_assert!(backup.in_use.is_some()),
                Fate::Expired(_) => {}
            }
        }
        // Two plans together take no more than either.
        let both = plan.clone().and(&plan);
        prop_assert_eq!(both, plan);
    }
}

#[test]
fn a_history_as_people_have_it() {
    let line = |id, history: &str| Branch::parse(timeline(id), history.as_bytes()).unwrap();
    let number = SegmentNumber::new;
    let backup = |id: &str, on, segment, ended| Candidate {
        id: id.to_owned(),
        start: Point { timeline: timeline(on), lsn: at(segment, 40) },
        stop: Point { timeline: timeline(on), lsn: at(segment, 400) },
        ended: Some(time(ended)),
        usable: true,
        needs: None,
        in_use: None,
    };
    // Timeline 1 was left in segment 10, and had gone on to 12, with a backup there.
    let timelines = BTreeMap::from([
        (timeline(1), (Some(line(1, "")), number(1), number(12))),
        (timeline(2), (Some(line(2, "1\t0/A00100\n")), number(10), number(30))),
    ]);
    let backups = vec![
        backup("old", 1, 3, 100),
        backup("before", 1, 8, 200),
        backup("lost", 1, 11, 300),
        backup("new", 2, 20, 400),
    ];
    let mut inventory = Inventory { backups, timelines, holds: Vec::new() };
    let check = |inventory: &Inventory,
                 keep: usize,
                 since: Option<i64>,
                 fates: [bool; 4],
                 bounds: [u64; 2]| {
        let policy = Policy { backups: NonZeroUsize::new(keep), since: since.map(time) };
        let plan = Plan::of(inventory, &policy, SIZE).unwrap();
        let kept: Vec<bool> = plan.backups.iter().map(|(_, fate)| fate.is_kept()).collect();
        assert_eq!(kept, fates);
        let bounds =
            BTreeMap::from([(timeline(1), number(bounds[0])), (timeline(2), number(bounds[1]))]);
        assert_eq!(plan.bounds(), bounds);
    };
    check(&inventory, 1, None, [false, false, false, true], [13, 20]);
    check(&inventory, 2, None, [false, true, true, true], [8, 10]);
    check(&inventory, 9, None, [true; 4], [3, 10]);
    check(&inventory, 0, Some(399), [false, true, true, true], [8, 10]);
    check(&inventory, 0, Some(400), [false, false, false, true], [13, 20]);
    check(&inventory, 1, Some(150), [true; 4], [3, 10]);
    let slot = Hold { what: "slot".to_owned(), timeline: Some(timeline(1)), from: at(9, 5) };
    inventory.holds.push(slot);
    check(&inventory, 1, None, [false, false, false, true], [9, 10]);
    inventory.backups[3].usable = false;
    check(&inventory, 1, None, [false, true, true, true], [8, 10]);
    inventory.backups.clear();
    let refused = Plan::of(&inventory, &Policy::default(), SIZE);
    assert_eq!(refused, Err(NoPlan::NoBackup(timeline(2))));
}
