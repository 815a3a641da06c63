//! The newest frames, in memory: a reader at the end of the log, which is where readers are, needs no file for them.

use std::collections::VecDeque;

use bytes::Bytes;

/// A frame as it stands in a segment.
#[derive(Clone, Debug)]
pub(super) struct TailFrame {
    /// First offset of its segment.
    pub segment: u64,
    /// Where in the segment it begins.
    pub position: u64,
    /// Its first offset.
    pub first: u64,
    /// The offset after its last.
    pub end: u64,
    pub bytes: Bytes,
}

/// The newest frames of a partition, without a gap, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Tail {
    frames: VecDeque<TailFrame>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub fn new(bytes_max: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub fn push(&mut self, frame: TailFrame) {
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.frames.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// The frames from the one with the record `offset` on, no more than reach `bytes`, but one at least; none if that
    /// record's frame is no longer held.
    pub fn from(&self, offset: u64, bytes: usize) -> Vec<TailFrame> {
        let at = self.frames.partition_point(|frame| frame.end <= offset);
        if self.frames.get(at).is_none_or(|frame| frame.first > offset) {
            return Vec::new();
        }
        let mut taken = 0;
        self.frames
            .range(at..)
            .take_while(|frame| {
                let room = taken < bytes.max(1);
                taken += frame.bytes.len();
                room
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u64, count: u64, bytes: usize) -> TailFrame {
        TailFrame { segment: 0, position: 0, first, end: first + count, bytes: Bytes::from(vec![0; bytes]) }
    }

    fn firsts(tail: &Tail, offset: u64, bytes: usize) -> Vec<u64> {
        tail.from(offset, bytes).iter().map(|frame| frame.first).collect()
    }

    #[test]
    fn the_oldest_frames_make_room() {
        let mut tail = Tail::new(100);
        for n in 0..4 {
            tail.push(frame(n * 10, 10, 40));
        }
        assert_eq!(firsts(&tail, 19, 1_000), Vec::<u64>::new(), "no longer held");
        assert_eq!(firsts(&tail, 20, 1_000), [20, 30]);
        assert_eq!(firsts(&tail, 29, 40), [20], "enough bytes");
        assert_eq!(firsts(&tail, 39, 0), [30], "one at least");
        assert_eq!(firsts(&tail, 40, 1_000), Vec::<u64>::new(), "past the end");
        tail.push(frame(40, 1, 101));
        assert_eq!(firsts(&tail, 40, 1_000), Vec::<u64>::new(), "too large to be held");
        tail.push(frame(41, 1, 100));
        assert_eq!(firsts(&tail, 41, 1_000), [41]);
    }

    #[test]
    fn none_are_held_without_room() {
        let mut tail = Tail::new(0);
        tail.push(frame(0, 1, 1));
        assert!(tail.from(0, 1).is_empty());
    }
}
