//! A stream that is wrong: a bit flipped on the way, and another server's history.

use archive::Stop;
use disk::sim::{Mutation, Rng, SimDisk};
use pg_types::Lsn;

use super::session::Turn;
use super::{
    AckRule, Cut, Explorer, Ledger, Plan, Primary, Session, SessionError, Setup, Trouble,
    Violation, check,
};

/// A bit of one record is flipped: nothing of it is acknowledged, what was sealed of it is taken
/// back, and with a crash at each operation of that the right bytes are there in the end. Gives
/// the states that were checked.
///
/// # Errors
/// The first violation.
pub fn flip(seed: u64, mutations: &[Mutation], rule: AckRule) -> Result<u64, Violation> {
    let primary = Primary::new(seed);
    let at = protected_byte(&primary, &mut Rng::new(seed ^ 0xF11B));
    let mut setup = Setup { trouble: Trouble::Stream, rule, ..Setup::new(seed) };
    setup.flip = Some((at, (seed % 8) as u8));
    let plan = Plan { every: 40, ..Plan::ONCE };
    let mut explorer = Explorer::new(&primary, setup, plan, seed);
    let context = |v: Violation| v.within(format_args!("flipped at {at}, seed {seed}"));
    explorer.explore(mutated(seed, mutations)).map_err(context)?;
    for withdrawn in 0.. {
        let session = until_corrupt(&primary, setup, seed, mutations, at).map_err(context)?;
        let (disk, mut ledger) = (session.disk.clone(), session.ledger.clone());
        disk.stop_at(disk.operations() + withdrawn);
        match session.withdraw() {
            Ok(session) if !disk.is_off() => {
                disk.stop_at(u64::MAX);
                explorer.watch(session, 6).map_err(context)?;
                break;
            }
            Err(SessionError::Violation(violation)) if !disk.is_off() => {
                return Err(context(violation));
            }
            Err(SessionError::Archive(error)) if !disk.is_off() => {
                return Err(context(Violation::new(error.to_string())));
            }
            _ => {}
        }
        // What may be gone once the withdrawal has begun.
        let size = primary.segment_size();
        ledger.sealed.retain(|number| number.end(size) <= ledger.flush);
        for cut in [Cut::ALL[0], Cut::ALL[1], Cut::Kill] {
            let (booted, left) = cut.apply(&disk, &ledger, seed ^ withdrawn);
            explorer.recover(booted, left, false).map_err(|violation| {
                context(violation.within(format_args!("{cut:?} {withdrawn} into the withdrawal")))
            })?;
        }
    }
    Ok(explorer.states)
}

/// A bit is flipped in what comes again after a restart: that is corruption on the way, and never
/// taken for another history.
///
/// # Errors
/// The first violation.
pub fn flip_again(seed: u64) -> Result<(), Violation> {
    let primary = Primary::new(seed);
    let setup = Setup { trouble: Trouble::Stream, ..Setup::new(seed) };
    let session = whole(&primary, setup, seed)?;
    let start = last_segment(&primary);
    let mut rng = Rng::new(seed ^ 0xF11B);
    let at = loop {
        let at = protected_byte(&primary, &mut rng);
        if at >= start {
            break at;
        }
    };
    let mut again = session.reconnect(false).map_err(SessionError::into_violation)?;
    let before = check::contents(&again.disk);
    again.setup.flip = Some((at, (seed % 8) as u8));
    let ended = again.run()?;
    if ended != Turn::Stopped || !matches!(again.stop(), Some(Stop::Corrupt(_))) {
        let what = format!("flipped at {at} when it came again, seed {seed}: {:?}", again.stop());
        return Err(Violation::new(what).logged(&again.disk));
    }
    unchanged(&mut again, &before)?;
    again.setup.flip = None;
    go_on_to_the_end(again)
}

/// Another server's history comes after a restart: it stops, and nothing stored is changed.
///
/// # Errors
/// The first violation.
pub fn diverge(seed: u64) -> Result<(), Violation> {
    let primary = Primary::new(seed);
    let (other, same) = primary.diverged(last_segment(&primary), seed);
    let setup = Setup { trouble: Trouble::Stream, ..Setup::new(seed) };
    let session = whole(&primary, setup, seed)?;
    let mut again = session.reconnect(false).map_err(SessionError::into_violation)?;
    let before = check::contents(&again.disk);
    again.serve(&other);
    let ended = again.run()?;
    if ended != Turn::Stopped || !matches!(again.stop(), Some(Stop::Diverged { .. })) {
        let what = format!("another history from {same}, seed {seed}: {:?}", again.stop());
        return Err(Violation::new(what).logged(&again.disk));
    }
    if let Some(ack) = again.writer().acknowledgement() {
        return Err(Violation::new(format!("acknowledged {ack:?} of another history")));
    }
    unchanged(&mut again, &before)?;
    go_on_to_the_end(again)
}

fn whole<'a>(primary: &'a Primary, setup: Setup, seed: u64) -> Result<Session<'a>, Violation> {
    let (disk, ledger) = (SimDisk::new(seed), Ledger::new(primary.start()));
    let session = Session::start(primary, disk, setup, ledger, seed, false);
    let mut session = session.map_err(SessionError::into_violation)?;
    match session.run()? {
        Turn::Done => Ok(session),
        end => Err(Violation::new(format!("{end:?}: {:?}", session.stop()))),
    }
}

fn unchanged(session: &mut Session<'_>, before: &[(String, Vec<u8>)]) -> Result<(), Violation> {
    session.drain()?;
    if check::contents(&session.disk) == before {
        Ok(())
    } else {
        Err(Violation::new("what is stored was changed").logged(&session.disk))
    }
}

fn go_on_to_the_end(session: Session<'_>) -> Result<(), Violation> {
    let mut session = session.reconnect(false).map_err(SessionError::into_violation)?;
    match session.run()? {
        Turn::Done => session.finish(),
        end => Err(Violation::new(format!("{end:?}: {:?}", session.stop()))),
    }
}

/// Streams until the flipped bit stops it, and waits for the disk.
fn until_corrupt<'a>(
    primary: &'a Primary,
    setup: Setup,
    seed: u64,
    mutations: &[Mutation],
    at: Lsn,
) -> Result<Session<'a>, Violation> {
    let (disk, ledger) = (mutated(seed, mutations), Ledger::new(primary.start()));
    let session = Session::start(primary, disk, setup, ledger, seed, false);
    let mut session = session.map_err(SessionError::into_violation)?;
    session.run()?;
    session.drain()?;
    let stopped = matches!(session.stop(), Some(Stop::Corrupt(_)));
    if !stopped || session.ledger.write > at {
        let what = format!("stopped by {:?}, {:?}", session.stop(), session.ledger);
        return Err(Violation::new(what).logged(&session.disk));
    }
    Ok(session)
}

fn mutated(seed: u64, mutations: &[Mutation]) -> SimDisk {
    let disk = SimDisk::new(seed);
    for mutation in mutations {
        disk.mutate(mutation.clone());
    }
    disk
}

/// A byte that a CRC covers; each second time in a record that runs over a segment's end.
fn protected_byte(primary: &Primary, rng: &mut Rng) -> Lsn {
    let size = primary.segment_size();
    let crossing: Vec<_> = primary
        .records()
        .iter()
        .filter(|record| record.lsn.segment(size) != record.end.segment(size))
        .collect();
    loop {
        let at = match crossing.get(rng.index(crossing.len())) {
            Some(record) if rng.coin() => {
                record.lsn.saturating_add(rng.below(record.end.saturating_since(record.lsn)))
            }
            _ => primary
                .start()
                .saturating_add(rng.below(primary.end().saturating_since(primary.start()))),
        };
        if primary.is_protected(at) {
            return at;
        }
    }
}

/// The start of the segment that the log ends in.
fn last_segment(primary: &Primary) -> Lsn {
    primary.end().segment_start(primary.segment_size())
}
