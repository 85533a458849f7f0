//! The lanes of a simulated disk: what is queued, and the one step that performs some of it.
//!
//! Invariant: only the head of a lane is ever performed, and each operation completes once.
//! A sync covers what had been written when it became the head of its lane, and not a byte more:
//! that is the least that a real one promises.

use std::collections::VecDeque;

use rustix::io::Errno;

use super::content::SECTOR;
use super::fault::Mutation;
use super::image::Image;
use super::rng::Rng;
use super::state::{State, too_long};
use crate::{Access, Completion, DiskError, Failure, Lane, Op, OpId, Outcome};

struct Queued {
    id: OpId,
    op: Op,
    /// Its completion has been delivered already (`CompleteBeforeDone`).
    reported: bool,
    /// Its effect has been taken already (`SyncBeforeWrite`).
    spent: bool,
}

#[derive(Default)]
struct LaneQueue {
    chains: VecDeque<VecDeque<Queued>>,
    /// The image's sequence number when the head became the head.
    started: u64,
}

#[derive(Default)]
pub(super) struct Lanes {
    queues: [LaneQueue; Lane::ALL.len()],
    done: VecDeque<Completion>,
}

impl Lanes {
    pub(super) fn pending(&self) -> usize {
        self.queues.iter().flat_map(|queue| &queue.chains).map(VecDeque::len).sum()
    }

    pub(super) fn poll(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    fn complete(&mut self, id: OpId, result: Result<Outcome, Failure>) {
        self.done.push_back(Completion { id, result });
    }
}

impl State {
    pub(super) fn submit(&mut self, lane: Lane, chain: Vec<(OpId, Op)>) {
        if chain.is_empty() {
            return;
        }
        let early = self.mutations.contains(&Mutation::CompleteBeforeDone);
        let chain: VecDeque<Queued> = chain
            .into_iter()
            .map(|(id, op)| Queued { id, reported: early && op.kind().is_sync(), op, spent: false })
            .collect();
        for queued in chain.iter().filter(|queued| queued.reported) {
            self.lanes.complete(queued.id, Ok(Outcome::Done));
        }
        let queue = &mut self.lanes.queues[lane.index()];
        if queue.chains.is_empty() {
            queue.started = self.image.seq;
        }
        queue.chains.push_back(chain);
    }

    /// Performs the head of one lane; false if there is none, or no power.
    pub(super) fn step(&mut self) -> bool {
        if self.is_off() {
            return false;
        }
        let queues = self.lanes.queues.iter().enumerate();
        let busy: Vec<usize> =
            queues.filter(|(_, queue)| !queue.chains.is_empty()).map(|(index, _)| index).collect();
        let Some(lane) = busy.get(self.rng.index(busy.len())).copied() else { return false };
        let Some(mut chain) = self.lanes.queues[lane].chains.pop_front() else { return false };
        let Some(head) = chain.pop_front() else { return true };
        let start = self.lanes.queues[lane].started;
        self.sync_too_early(&head, &mut chain);
        self.lane = Some(Lane::ALL[lane]);
        let failed = self.perform(head, start);
        self.lane = None;
        if failed {
            for rest in chain.drain(..) {
                let path = rest.op.path().unwrap_or(std::path::Path::new("")).to_owned();
                let error = DiskError::cancelled(rest.op.kind().name(), &path);
                if !rest.reported {
                    self.lanes.complete(rest.id, Err(Failure { error, buf: rest.op.into_buf() }));
                }
            }
        }
        let queue = &mut self.lanes.queues[lane];
        if !chain.is_empty() {
            queue.chains.push_front(chain);
        }
        queue.started = self.image.seq;
        true
    }

    /// What a process that dies now leaves: of each lane's head nothing, a part or all is done.
    pub(super) fn interrupted(&self, rng: &mut Rng) -> Image {
        let mut last = self.successor(self.image.clone(), rng.next());
        last.handles.clone_from(&self.handles);
        for queue in &self.lanes.queues {
            let Some(head) = queue.chains.front().and_then(VecDeque::front) else { continue };
            if head.spent {
                continue;
            }
            match rng.below(4) {
                0 | 1 => {}
                2 => last.partly(&head.op, queue.started),
                // Whether it would have failed makes no difference to what it leaves.
                _ => _ = last.change(&head.op, queue.started),
            }
        }
        last.image
    }

    /// True if the operation failed.
    fn perform(&mut self, queued: Queued, start: u64) -> bool {
        let Queued { id, mut op, reported, spent } = queued;
        let result = match &mut op {
            _ if spent => Ok(0),
            Op::Read { .. } => self.read(&mut op),
            Op::Open { file, path, access } => {
                let opened =
                    self.run(crate::OpKind::Open, path, None, |s, _| s.image.lookup_file(path));
                opened.map(|ino| {
                    self.open_handle(file.0.into(), ino, *access, path);
                    0
                })
            }
            Op::Close { file } => {
                self.handles.remove(&u64::from(file.0));
                Ok(0)
            }
            _ => self.change(&op, start).map(|()| 0),
        };
        let failed = result.is_err();
        if reported {
            return failed;
        }
        let result = match (result, op) {
            (Ok(_), Op::Write { buf, .. }) => Ok(Outcome::Wrote(buf)),
            (Ok(len), Op::Read { buf, .. }) => Ok(Outcome::Read(buf, len)),
            (Ok(_), _) => Ok(Outcome::Done),
            (Err(error), op) => Err(Failure { error, buf: op.into_buf() }),
        };
        self.lanes.complete(id, result);
        failed
    }

    fn read(&mut self, op: &mut Op) -> Result<usize, DiskError> {
        let kind = op.kind();
        let Some(file) = op.file() else { return Ok(0) };
        let handle = self.handle(op, file.0)?;
        let Op::Read { offset, buf, len, .. } = op else { return Ok(0) };
        let Some(out) = buf.get_mut(..*len) else { return Err(too_long(kind, &handle.path)) };
        self.run(kind, &handle.path, None, |s, _| {
            let inode = s.image.file(handle.ino).ok_or(Errno::BADF)?;
            Ok(inode.read(*offset, out, handle.access == Access::Direct))
        })
    }

    /// The part of an operation that may have been done when the process died in it.
    fn partly(&mut self, op: &Op, start: u64) {
        let (file, offset, bytes) = match op {
            Op::Write { file, offset, buf, len } => (file, *offset, buf.get(..*len)),
            Op::Append { file, offset, bytes } => (file, *offset, Some(bytes.as_slice())),
            Op::Create { path, .. } => {
                // The name is there before the room is allocated.
                _ = self.image.create(path, 0);
                return;
            }
            _ => {
                _ = self.change(op, start);
                return;
            }
        };
        let Some(handle) = self.handles.get(&u64::from(file.0)).cloned() else { return };
        let bytes = bytes.unwrap_or_default();
        let done = self.rng.index(bytes.len() / SECTOR + 1) * SECTOR;
        _ = self.write(op.kind(), &handle, offset, &bytes[..done]);
    }

    /// The mutant that syncs before it writes.
    fn sync_too_early(&mut self, head: &Queued, rest: &mut VecDeque<Queued>) {
        if !self.mutations.contains(&Mutation::SyncBeforeWrite) {
            return;
        }
        let (Op::Write { file, .. } | Op::Append { file, .. }) = &head.op else { return };
        let Some(next) = rest.front_mut() else { return };
        if !matches!(&next.op, Op::SyncData { file: f } | Op::SyncAll { file: f } if f == file) {
            return;
        }
        if let Some(handle) = self.handles.get(&u64::from(file.0)) {
            let (ino, seq) = (handle.ino, self.image.seq);
            self.image.sync_file(ino, seq);
            next.spent = true;
        }
    }
}
