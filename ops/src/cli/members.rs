//! `oknoctl member`: who belongs to the cluster, and changing it one step at a time.

use super::{
    Failure, Session,
    output::{self, table},
};
use clap::{Args, Subcommand};
use okno_client::v1::{
    AddMemberRequest, ListMembersRequest, ListMembersResponse, Member, MemberChange, PromoteMemberRequest,
    Quorum, RemoveMemberRequest,
};
use std::time::{Duration, Instant};

/// Between two looks at something that is about to change.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members as the called node sees them
    List,
    /// Add a node made by `okno init --join`: it receives the log, and becomes a voter once it has caught up
    Add(AddArgs),
    /// Make a learner a voter now
    Promote(NodeArgs),
    /// Take a member out, for ever: its id is not used again
    Remove(NodeArgs),
    /// Put a new node in the place of a member: add it, wait until it votes, take the old one out; under the old one's
    /// own address, whose machine lost its data, take the old one out first. Goes on where an interrupted one ended
    Replace(ReplaceArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Node id that was never used
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// host:port the other members reach it at
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Only say what it would lead to
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// Only say what it would lead to
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ReplaceArgs {
    /// Member to be taken out
    #[arg(value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
    old: u64,
    /// Node id of the new one, never used before
    #[arg(long = "with", value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    new: u64,
    /// host:port the other members reach the new one at
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// How long the new one may take to catch up, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    within: u64,
    /// Only say what the first step would lead to
    #[arg(long)]
    dry_run: bool,
}

pub async fn member(session: &Session, command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List => {
            let members = list(session).await?;
            output::print(session.format, &members, show_list);
            Ok(())
        }
        MemberCommand::Add(args) => {
            let change = add(session, args.node_id, args.address, args.dry_run).await?;
            show(session, &change);
            Ok(())
        }
        MemberCommand::Promote(NodeArgs { node_id, dry_run }) => {
            session.client.find_leader().await;
            let request = PromoteMemberRequest { meta: session.meta(), node_id, dry_run };
            show(session, &session.call(request).await?.change.unwrap_or_default());
            Ok(())
        }
        MemberCommand::Remove(NodeArgs { node_id, dry_run }) => {
            let change = remove(session, node_id, dry_run).await?;
            show(session, &change);
            Ok(())
        }
        MemberCommand::Replace(args) => replace(session, args).await,
    }
}

async fn list(session: &Session) -> Result<ListMembersResponse, Failure> {
    session.call(ListMembersRequest {}).await
}

async fn add(
    session: &Session,
    node_id: u64,
    address: String,
    dry_run: bool,
) -> Result<MemberChange, Failure> {
    session.client.find_leader().await;
    let request = AddMemberRequest { meta: session.meta(), node_id, address, dry_run };
    Ok(session.call(request).await?.change.unwrap_or_default())
}

async fn remove(session: &Session, node_id: u64, dry_run: bool) -> Result<MemberChange, Failure> {
    session.client.find_leader().await;
    let request = RemoveMemberRequest { meta: session.meta(), node_id, dry_run };
    Ok(session.call(request).await?.change.unwrap_or_default())
}

/// Every step is one that succeeds when it is so already: the same command again goes on.
async fn replace(session: &Session, args: ReplaceArgs) -> Result<(), Failure> {
    let ReplaceArgs { old, new, address, within, dry_run } = args;
    if old == new {
        return Err(Failure::Usage("a node id dies with its data: the new node needs another one".into()));
    }
    session.client.find_leader().await;
    // A wiped machine under a new id: its address is free only once the old id is out.
    let in_place = list(session).await?.members.iter().any(|m| m.node_id == old && m.address == address);
    if in_place {
        show(session, &remove(session, old, dry_run).await?);
        if dry_run {
            return Ok(());
        }
    }
    let added = add(session, new, address, dry_run).await?;
    show(session, &added);
    if dry_run {
        return Ok(());
    }
    let give_up = Instant::now() + Duration::from_secs(within);
    loop {
        session.client.find_leader().await;
        let members = list(session).await?;
        match members.members.iter().find(|m| m.node_id == new) {
            Some(member) if !member.learner => break,
            Some(_) if Instant::now() < give_up => {}
            Some(member) => {
                return Err(Failure::Broken(format!(
                    "node {new} has not caught up: it has the log up to {}; the same command again goes on",
                    member.match_index
                )));
            }
            // The node that was asked has not applied the change yet.
            None if Instant::now() < give_up => {}
            None => return Err(Failure::Broken(format!("node {new} is not among the members"))),
        }
        tokio::time::sleep(POLL).await;
    }
    if !in_place {
        show(session, &remove(session, old, false).await?);
    }
    Ok(())
}

fn show(session: &Session, change: &MemberChange) {
    output::print(session.format, change, |change| {
        let quorum = |quorum: &Option<Quorum>| {
            let quorum = quorum.clone().unwrap_or_default();
            format!("voters {:?}, learners {:?}, quorum {}", quorum.voters, quorum.learners, quorum.votes)
        };
        let what = match (change.already, change.index) {
            (true, _) => "so already".to_owned(),
            (false, 0) => "nothing was changed".to_owned(),
            (false, index) => format!("in force since index {index}"),
        };
        let able = change.after.as_ref().map_or(0, |after| after.able);
        let able = if change.already {
            String::new()
        } else {
            format!("\nof the voters after it {able} are heard and have caught up")
        };
        format!("{what}\nbefore: {}\nafter:  {}{able}", quorum(&change.before), quorum(&change.after))
    });
}

fn show_list(members: &ListMembersResponse) -> String {
    let role = |m: &Member| match (m.leader, m.learner) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "",
    };
    let connected = |m: &Member| match (m.self_, m.connected) {
        (true, _) => "itself",
        (false, true) => "yes",
        (false, false) => "NO",
    };
    let rows = members.members.iter().map(|m| {
        [
            m.node_id.to_string(),
            m.address.clone(),
            role(m).to_owned(),
            connected(m).to_owned(),
            if m.match_index == 0 { String::new() } else { m.match_index.to_string() },
            format!("{:+}", m.clock_offset_ms),
        ]
    });
    format!(
        "{}\nas node {} sees it",
        table(["NODE", "ADDRESS", "ROLE", "CONNECTED", "HAS", "CLOCK, MS"], rows),
        members.served_by
    )
}
