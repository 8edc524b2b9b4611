//! `oknoctl journal`: what the cluster did by itself or was told to do, from the replicated journal.

use super::{
    Failure, Session,
    output::{self, moment, table},
};
use clap::Args;
use okno_client::v1::ListSystemEventsRequest;

/// Events of one page; the server gives no more.
const PAGE: u32 = 200;

#[derive(Debug, Args)]
pub struct JournalArgs {
    /// How many events, from the newest back
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: u32,
}

pub async fn run(session: &Session, args: JournalArgs) -> Result<(), Failure> {
    let request =
        ListSystemEventsRequest { read: session.read(), page_size: PAGE, page_token: String::new() };
    let response = every_page!(session, request, events, at_most args.last);
    output::print(session.format, &response, |r| {
        let rows = r.events.iter().map(|event| {
            let by =
                event.actor.as_ref().map(|actor| format!("{}/{}", actor.kind, actor.id)).unwrap_or_default();
            [event.index.to_string(), moment(event.time.as_ref()), by, event.kind.clone(), event.text.clone()]
        });
        if r.events.is_empty() {
            "nothing is in the journal of the cluster itself".to_owned()
        } else {
            table(["INDEX", "TIME", "BY", "EVENT", "WHAT"], rows)
        }
    });
    Ok(())
}
