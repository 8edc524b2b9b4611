//! Planted faults ("mutants"): each breaks one rule the product rests on, so that simulator and drills can show they would
//! notice. Compiled in only with the feature `mutants`, which no shipped binary has; without it [`is`] is `false` at
//! compile time and nothing of a fault is left.
//!
//! At most one is chosen at a time, for the whole process: by [`choose`] (simulator) or the environment variable
//! `OKNO_MUTANT` (`okno-faulty`, through [`choose_by_name`]).

/// Every planted fault. The name is what reports and `OKNO_MUTANT` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mutant {
    /// The log's append is not synced, and said to be (`log`).
    SkipLogFsync = 1,
    /// Messages that vouch for entries, or for a vote, leave before these are on disk (the cluster's driver).
    SendBeforePersist,
    /// Term and vote are not written, neither to `identity` nor beside the log (the cluster's steps, `log`).
    ForgetVote,
    /// A proposal is answered as applied once it stands in the leader's log (the cluster's proposals).
    AnswerBeforeCommit,
    /// A refusal is told at once, whatever it was decided on (the runtime's shard).
    RefuseFromSpeculation,
    /// A commit applies whatever it builds on (`apply`).
    DropBaseCheck,
    /// A commit's term is compared with the node's current term, as its disk has it, instead of its entry's (`apply`).
    CompareCurrentTerm,
    /// Fences look at the stored state only, not at the batch being built (`apply`).
    FenceWithoutOverlay,
    /// The reply of a request is not remembered (`apply`).
    DropRememberedReply,
    /// An outbox message is delivered twice (the runtime's courier), and may be consumed twice (`apply`): either alone
    /// would do no harm.
    DeliverTwice,
    /// Actors activate before the own term's entry is applied (the cluster's driver).
    ActivateEarly,
    /// A leader stamps its own clock, however far ahead, so that replicated time, and all that expires by it, runs away
    /// (the cluster's clock).
    FastClockExpires,
    /// The applied index is written apart from what was applied (`state`).
    SplitApplyBatch,
    /// Commits are written in the next release's form whatever the replicated level (`schema`).
    EncodeBeforeLevel,
    /// The log is cut up to its end, whatever is applied and whoever needs it (the cluster's retention, `log`).
    CutLogTooFar,
    /// A learner becomes a voter whatever it lacks (the cluster's change of members).
    PromoteTooEarly,
    /// A copy is installed without what stands in the second half of its files (`snapshot`).
    InstallHalfSnapshot,
    /// A node whose data were removed is admitted under its old id (the cluster's pins).
    AcceptWipedId,
    /// A connector's verdict counts whatever its token (the domain's channels).
    AcceptOldToken,
    /// No timer is set for a ticket that is put off (the domain's queue).
    LoseDeferredTimer,
    /// Visitors with priority are called before everybody, without the fairness bound (the domain's queue).
    CallUnbounded,
    /// Deliveries lapse by a former leader's clock (the domain's channels).
    HeedFormerClock,
}

impl Mutant {
    pub const ALL: &'static [Self] = &[
        Self::SkipLogFsync,
        Self::SendBeforePersist,
        Self::ForgetVote,
        Self::AnswerBeforeCommit,
        Self::RefuseFromSpeculation,
        Self::DropBaseCheck,
        Self::CompareCurrentTerm,
        Self::FenceWithoutOverlay,
        Self::DropRememberedReply,
        Self::DeliverTwice,
        Self::ActivateEarly,
        Self::FastClockExpires,
        Self::SplitApplyBatch,
        Self::EncodeBeforeLevel,
        Self::CutLogTooFar,
        Self::PromoteTooEarly,
        Self::InstallHalfSnapshot,
        Self::AcceptWipedId,
        Self::AcceptOldToken,
        Self::LoseDeferredTimer,
        Self::CallUnbounded,
        Self::HeedFormerClock,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipLogFsync => "skip-log-fsync",
            Self::SendBeforePersist => "send-before-persist",
            Self::ForgetVote => "forget-vote",
            Self::AnswerBeforeCommit => "answer-before-commit",
            Self::RefuseFromSpeculation => "refuse-from-speculation",
            Self::DropBaseCheck => "drop-base-check",
            Self::CompareCurrentTerm => "compare-current-term",
            Self::FenceWithoutOverlay => "fence-without-overlay",
            Self::DropRememberedReply => "drop-remembered-reply",
            Self::DeliverTwice => "deliver-twice",
            Self::ActivateEarly => "activate-early",
            Self::FastClockExpires => "fast-clock-expires",
            Self::SplitApplyBatch => "split-apply-batch",
            Self::EncodeBeforeLevel => "encode-before-level",
            Self::CutLogTooFar => "cut-log-too-far",
            Self::PromoteTooEarly => "promote-too-early",
            Self::InstallHalfSnapshot => "install-half-snapshot",
            Self::AcceptWipedId => "accept-wiped-id",
            Self::AcceptOldToken => "accept-old-token",
            Self::LoseDeferredTimer => "lose-deferred-timer",
            Self::CallUnbounded => "call-unbounded",
            Self::HeedFormerClock => "heed-former-clock",
        }
    }
}

#[cfg(feature = "mutants")]
mod chosen {
    use super::Mutant;
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    static CHOSEN: AtomicU8 = AtomicU8::new(0);
    static NEXT_RELEASE: AtomicBool = AtomicBool::new(false);

    /// Makes this process act as the release after this one: it knows one feature level more, and from that level on
    /// writes commits in a form that this release cannot decode.
    pub fn be_next_release() {
        NEXT_RELEASE.store(true, Ordering::Relaxed);
    }

    /// Does this process act as the release after this one?
    #[inline]
    pub fn is_next_release() -> bool {
        NEXT_RELEASE.load(Ordering::Relaxed)
    }

    /// Chooses the planted fault of this process, or none.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.store(mutant.map_or(0, |m| m as u8), Ordering::Relaxed);
    }

    /// As [`choose`]; `Err` names an unknown one back.
    pub fn choose_by_name(name: &str) -> Result<Mutant, String> {
        let mutant = Mutant::ALL.iter().copied().find(|m| m.name() == name).ok_or_else(|| name.to_owned())?;
        choose(Some(mutant));
        Ok(mutant)
    }

    /// Is this the planted fault?
    #[inline]
    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as u8
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{be_next_release, choose, choose_by_name, is, is_next_release};

/// Is this the planted fault? Never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_mutant: Mutant) -> bool {
    false
}

/// Does this process act as the release after this one? Never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_next_release() -> bool {
    false
}
