//! How transcripts show members and changes.

use okno_cluster::status::{ChangeError, MemberPlan};
use okno_storage::members::{MemberRole, Members};

pub fn show_table(table: &Members) -> String {
    let voters: Vec<_> = table.voters().collect();
    let learners: Vec<_> =
        table.current.iter().filter(|m| m.role == MemberRole::Learner).map(|m| m.node_id).collect();
    format!("voters {voters:?} learners {learners:?} removed {:?}", table.removed)
}

fn show_plan(plan: &MemberPlan) -> String {
    let quorum = |q: &okno_cluster::status::QuorumPlan| {
        format!("{} of {} voters, {} able", q.quorum, q.voters.len(), q.able)
    };
    format!("quorum {} -> {}", quorum(&plan.before), quorum(&plan.after))
}

pub fn show_change(result: &Result<(Option<u64>, MemberPlan), ChangeError>) -> String {
    match result {
        Ok((None, plan)) => format!("would be done; {}", show_plan(plan)),
        Ok((Some(index), plan)) => format!("done at {index}; {}", show_plan(plan)),
        Err(error) => format!("refused: {error}"),
    }
}
