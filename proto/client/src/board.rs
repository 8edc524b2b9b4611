//! Following a hall board across nodes (R-Q3): when the stream breaks or falls silent, it is taken up at another endpoint
//! behind the last sequence seen. Sequences are the queue's own, so it goes on wherever it was.

use crate::{client::Client, error::CallError, resumed::Resumed};
use okno_proto::v1::{TicketRef, WatchBoardRequest, WatchBoardResponse};
use std::collections::BTreeMap;

/// What a board shows, kept from its frames.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Board {
    /// Everything up to it is in.
    pub sequence: u64,
    shown: BTreeMap<(String, String), okno_proto::v1::BoardEntry>,
}

impl Board {
    /// Takes a frame in.
    pub fn take(&mut self, frame: &WatchBoardResponse) {
        use okno_proto::v1::BoardState;
        if frame.anew {
            self.shown.clear();
        }
        for entry in &frame.entries {
            let TicketRef { day, number } = entry.ticket.clone().unwrap_or_default();
            match entry.state() {
                BoardState::Called | BoardState::Serving => self.shown.insert((day, number), entry.clone()),
                BoardState::Gone | BoardState::Unspecified => self.shown.remove(&(day, number)),
            };
        }
        self.sequence = frame.sequence;
    }

    /// In the order of calling. Those whose change is too long ago to have a sequence come first, by their time.
    pub fn entries(&self) -> Vec<&okno_proto::v1::BoardEntry> {
        let mut entries: Vec<_> = self.shown.iter().collect();
        entries.sort_by_key(|(name, entry)| {
            let at = entry.at.as_ref().map(|at| (at.seconds, at.nanos));
            (entry.sequence, at, *name)
        });
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// A board's frames that survive the loss of a node. None is missed and none comes twice.
#[derive(Debug)]
pub struct BoardWatch(Resumed<WatchBoardRequest, WatchBoardResponse>);

impl BoardWatch {
    pub fn new(client: Client, request: WatchBoardRequest) -> Self {
        let path = "/okno.v1.QueueService/WatchBoard";
        Self(Resumed::new(client, path, request, |request, frame: &WatchBoardResponse| {
            request.after = Some(frame.sequence);
        }))
    }

    /// The next frame; one without entries is a sign of life. Fails when the cluster refuses the watch, or when no node
    /// has taken it up for as long as a call may last.
    pub async fn next(&mut self) -> Result<WatchBoardResponse, CallError> {
        self.0.next().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okno_proto::v1::{BoardEntry, BoardState};

    fn entry(sequence: u64, number: &str, state: BoardState) -> BoardEntry {
        let ticket = TicketRef { day: "2026-03-02".into(), number: number.into() };
        BoardEntry { sequence, ticket: Some(ticket), state: state.into(), ..BoardEntry::default() }
    }

    fn numbers(board: &Board) -> Vec<String> {
        board.entries().into_iter().filter_map(|entry| Some(entry.ticket.clone()?.number)).collect()
    }

    #[test]
    fn a_board_is_its_frames() {
        let mut board = Board::default();
        let frame = |sequence, anew, entries| WatchBoardResponse { sequence, anew, entries, served_by: 1 };
        let called = |sequence, number| entry(sequence, number, BoardState::Called);
        board.take(&frame(3, true, vec![called(2, "А001"), called(3, "А002")]));
        board.take(&frame(5, false, vec![entry(4, "А001", BoardState::Gone), called(5, "Б001")]));
        assert_eq!(numbers(&board), ["А002", "Б001"]);
        // Called once more: last in the order.
        board.take(&frame(6, false, vec![called(6, "А002")]));
        assert_eq!((numbers(&board), board.sequence), (vec!["Б001".to_owned(), "А002".to_owned()], 6));
        board.take(&frame(900, true, vec![called(899, "Р001")]));
        assert_eq!(numbers(&board), ["Р001"]);
        // Without a sequence: by their time, whatever their numbers.
        let mut old = called(0, "А009");
        old.at = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let mut later = called(0, "А001");
        later.at = Some(prost_types::Timestamp { seconds: 2, nanos: 0 });
        board.take(&frame(901, true, vec![called(899, "Р001"), later, old]));
        assert_eq!(numbers(&board), ["А009", "А001", "Р001"]);
    }
}
