//! The commands of golden scripts that speak to channels, and to cases about them.
//!
//! - `channel CODE order= parallel= depth= attempts= base= max= rate=N/MS/BURST breaker=FAILURES/MS/MAX/PROBES expires=
//!   connectors=a,b letters= remember= ack= work=`: settings; without `breaker` there is none
//! - `process MODULE ask= requests=CHANNEL:KIND,… wait= order= blocking=no mandatory=yes expires=MS`: of service `paper`
//! - `ask CASE CODE bodies=a,b keys=k,l`, `give-up CASE N`: cases
//! - `take CHANNEL N bytes=`, `settle CHANNEL VERDICT… take=N`: connectors. A verdict is `SAID:MESSAGE:TEXT:MORE` with the
//!   token of the message's newest delivery, or, after `@G.T.S`, another: `complete:c.1:текст:body`, `fail:c.1:why:5000:body`,
//!   `reject:c.1:why`, `progress:c.1:text`, `sub:c.1:CHANNEL/KIND:body`
//! - `lapse CHANNEL MESSAGE unheard|overdue|gone [term=N]`: the leader's clock, or that of the leader of another term
//! - `letter CHANNEL OUTSIDE about= body=`, `assign CHANNEL N CASE`, `drop CHANNEL N reason=`: letters
//! - `steer CHANNEL MODE reason=`, `redrive CHANNEL MESSAGE… oldest=`, `discard CHANNEL MESSAGE… reason=`: operators
//! - `backlog CHANNEL`, `bodies`: what there is; `after MS`: the clock moves on; `term N`: another leader

use crate::{
    script::{Args, refused, show_reply},
    world::{World, local},
};
use okno_domain::{
    case::{self, AskBody, Case},
    catalogue::{Ask, AskOrder, AskRequest, Process, Text, Wait},
    channel::{
        Breaker, BreakerSettings, Channel, Command, Exchanged, Inbound, Lapse, Lapsed, Lapses, LetterState,
        MessageState, Mode, NewLetter, Order, Outgoing, Rate, Reply, Retry, Said, Settings, SubAsk, Take,
        Token, Verdict, Which,
    },
    entity::Entity,
    exchange::{Content, hex, sha256},
};
use std::{collections::BTreeMap, error::Error, sync::Arc};

type Names = BTreeMap<String, String>;

pub fn run(
    world: &mut World,
    names: &Names,
    name: &str,
    args: &mut Args<'_>,
) -> Result<String, Box<dyn Error>> {
    match name {
        "after" => {
            let at = world.now_ms + args.next()?.parse::<i64>()?;
            world.advance_to(at);
            return Ok(String::new());
        }
        "term" => {
            world.term = args.next()?.parse()?;
            return Ok(String::new());
        }
        "process" => {
            let process = process(args)?;
            return Ok(world
                .processes(&[process])
                .map_or_else(|refusal| refused(&refusal), |()| "loaded\n".into()));
        }
        "ask" | "give-up" => return case_command(world, names, name, args),
        "bodies" => {
            let bodies = world.bodies.iter().map(|((holder, number), bytes)| {
                format!(
                    "{} {number}: {} bytes, {}\n",
                    world.show(holder),
                    bytes.len(),
                    &hex(&sha256(bytes))[..8]
                )
            });
            return Ok(bodies.collect());
        }
        _ => {}
    }
    let code = args.next()?;
    if name == "backlog" {
        let channel = world.channels.get(code).ok_or("no such channel")?;
        return Ok(show_channel(world, &channel.state));
    }
    let empty = Channel::empty(code);
    let state = world.channels.get(code).map_or(&empty, |stored| &stored.state);
    let command = match name {
        "channel" => Command::Configure { settings: Box::new(settings(args)?) },
        "take" => {
            let messages = args.next()?.parse()?;
            let bytes = args.take("bytes").parse().unwrap_or(u32::MAX);
            Command::Exchange { verdicts: Vec::new(), take: Take { messages, bytes } }
        }
        "settle" => {
            let messages = args.take("take").parse().unwrap_or(0);
            let mut verdicts = Vec::new();
            while let Ok(text) = args.next() {
                verdicts.push(verdict(state, names, text)?);
            }
            Command::Exchange { verdicts, take: Take { messages, bytes: u32::MAX } }
        }
        "lapse" => {
            let id = message_id(names, args.next()?);
            let why = match args.next()? {
                "unheard" => Lapse::Unheard,
                "overdue" => Lapse::Overdue,
                _ => Lapse::Gone,
            };
            let own = args.take("term");
            let term = if own.is_empty() { world.term } else { own.parse()? };
            Command::Lapse { lapsed: vec![Lapsed { token: token_of(state, &id), id, why }], term }
        }
        "letter" => Command::Receive {
            letters: vec![NewLetter {
                outside_id: args.next()?.into(),
                about: message_id(names, args.take("about")),
                kind: "notice".into(),
                subject: "уведомление".into(),
                body: Content(args.take("body").into()),
            }],
        },
        "assign" => {
            Command::AssignLetter { letter: args.next()?.parse()?, case: message_id(names, args.next()?) }
        }
        "drop" => Command::DropLetter { letter: args.next()?.parse()?, reason: args.take("reason").into() },
        "steer" => Command::Steer {
            mode: match args.next()? {
                "open" => Mode::Open,
                "paused" => Mode::Paused,
                _ => Mode::Draining,
            },
            reason: args.take("reason").into(),
        },
        "redrive" => Command::Redrive { which: which(names, args) },
        "discard" => Command::Discard { reason: args.take("reason").into(), which: which(names, args) },
        other => return Err(format!("unknown command {other}").into()),
    };
    Ok(match world.channel(code, &command) {
        Ok(reply) => show(world, &reply),
        Err(refusal) => refused(&refusal),
    })
}

fn case_command(
    world: &mut World,
    names: &Names,
    name: &str,
    args: &mut Args<'_>,
) -> Result<String, Box<dyn Error>> {
    let case = args.next()?;
    let id = names.get(case).cloned().unwrap_or_else(|| case.to_owned());
    let command = if name == "ask" {
        let code = args.next()?.to_owned();
        let keys = args.list("keys");
        let bodies = args.list("bodies").into_iter().enumerate().map(|(n, body)| AskBody {
            subject: format!("запрос {}", n + 1),
            key: keys.get(n).cloned().unwrap_or_default(),
            body: Content(body.into_bytes()),
        });
        case::Command::Ask { code, bodies: bodies.collect() }
    } else {
        case::Command::GiveUpAsk { asking: args.next()?.parse()? }
    };
    Ok(world.case(&id, &command).map_or_else(|refusal| refused(&refusal), |reply| show_reply(&reply)))
}

fn settings(args: &mut Args<'_>) -> Result<Settings, Box<dyn Error>> {
    let usual = Settings::default();
    let mut number = |key: &str, usual: u32| args.take(key).parse().unwrap_or(usual);
    let depth = number("depth", 1_000);
    let retry = Retry {
        attempts: number("attempts", 3),
        base_ms: number("base", 1_000),
        max_ms: number("max", 60_000),
    };
    let (ack_ms, work_ms) = (number("ack", usual.ack_ms), number("work", usual.work_ms));
    let inbound =
        Inbound { depth: number("letters", 100), remember_days: u16::try_from(number("remember", 30))? };
    let parallel = u16::try_from(number("parallel", 8))?;
    let expires_ms = args.take("expires").parse().ok();
    let list = |text: &str| -> Vec<u32> { text.split('/').filter_map(|n| n.parse().ok()).collect() };
    let rate = match list(args.take("rate"))[..] {
        [messages, per_ms, burst] => Some(Rate { messages, per_ms, burst }),
        _ => None,
    };
    let breaker = match list(args.take("breaker"))[..] {
        [failures, open_ms, open_max_ms, probes] => {
            Some(BreakerSettings { failures, open_ms, open_max_ms, probes: u16::try_from(probes)? })
        }
        _ => None,
    };
    let connectors = args.list("connectors");
    Ok(Settings {
        title: Text { ru: "Образцовый канал".into(), en: "Sample channel".into() },
        connectors: if connectors.is_empty() { vec!["one".into(), "two".into()] } else { connectors },
        order: match args.take("order") {
            "key" => Order::Key,
            "strict" => Order::Strict,
            _ => Order::Free,
        },
        parallel,
        depth,
        ack_ms,
        work_ms,
        expires_ms,
        rate,
        retry,
        breaker,
        inbound,
    })
}

fn process(args: &mut Args<'_>) -> Result<Arc<Process>, Box<dyn Error>> {
    let requests = args.list("requests").into_iter().filter_map(|request| {
        let (channel, kind) = request.split_once(':')?;
        Some(AskRequest { channel: channel.into(), kind: kind.into() })
    });
    let ask = Ask {
        code: args.take("ask").into(),
        title: Text { ru: "Сведения".into(), en: "Facts".into() },
        requests: requests.collect(),
        wait: if args.take("wait") == "any" { Wait::Any } else { Wait::All },
        order: if args.take("order") == "sequential" { AskOrder::Sequential } else { AskOrder::Parallel },
        blocking: args.take("blocking") != "no",
        mandatory: args.take("mandatory") == "yes",
        expires_ms: args.take("expires").parse().ok(),
    };
    Ok(Arc::new(Process {
        module: args.next()?.into(),
        service: "paper".into(),
        asks: vec![ask],
        claimed: Vec::new(),
    }))
}

/// `c.1` is the first request of the case that the script calls `c`.
fn message_id(names: &Names, text: &str) -> String {
    let case = text.split('.').next().unwrap_or_default();
    match names.get(case) {
        Some(id) => format!("{id}{}", &text[case.len()..]),
        None => text.to_owned(),
    }
}

fn token_of(channel: &Channel, id: &str) -> Token {
    match channel.message(id).map(|message| &message.state) {
        Some(MessageState::Out { token, .. }) => *token,
        _ => Token { generation: 0, term: 0, sequence: 0 },
    }
}

fn which(names: &Names, args: &mut Args<'_>) -> Which {
    if let Ok(oldest) = args.take("oldest").parse() {
        return Which::Oldest(oldest);
    }
    let mut ids = Vec::new();
    while let Ok(id) = args.next() {
        ids.push(message_id(names, id));
    }
    Which::Named(ids)
}

fn verdict(channel: &Channel, names: &Names, text: &str) -> Result<Verdict, Box<dyn Error>> {
    let (text, token) = match text.split_once('@') {
        Some((text, token)) => (text, Some(token.parse()?)),
        None => (text, None),
    };
    let mut words = text.split(':');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (said, id, text, more) = (word(), message_id(names, &word()), word(), word());
    let last = word();
    let body = Some(Content(more.clone().into_bytes())).filter(|_| !more.is_empty());
    let said = match said.as_str() {
        "complete" => Said::Complete { summary: text, body },
        "fail" => Said::Fail {
            reason: text,
            retry_after_ms: more.parse().ok(),
            body: Some(Content(last.into_bytes())).filter(|body| !body.0.is_empty()),
        },
        "reject" => Said::Reject { reason: text, body },
        "progress" => Said::Progress { text },
        "sub" => {
            let (channel, kind) = text.split_once('/').ok_or("channel/kind")?;
            Said::Ask {
                requests: vec![SubAsk {
                    channel: channel.into(),
                    kind: kind.into(),
                    key: String::new(),
                    subject: "вложенный запрос".into(),
                    body: Content(more.into_bytes()),
                    expires_ms: None,
                }],
            }
        }
        other => return Err(format!("unknown verdict {other}").into()),
    };
    Ok(Verdict { token: token.unwrap_or_else(|| token_of(channel, &id)), id, said })
}

fn show(world: &World, reply: &Reply) -> String {
    match reply {
        Reply::None => unreachable!("commands are answered"),
        Reply::Configured { version } => format!("version {version}\n"),
        Reply::Exchanged(exchanged) => show_exchanged(world, exchanged),
        Reply::Lapsed { count } => format!("{count} lapsed\n"),
        Reply::Received { results } => results
            .iter()
            .map(|result| {
                let again = if result.duplicate { " again" } else { "" };
                format!("letter {} {}{again}\n", result.number, result.reason)
            })
            .collect(),
        Reply::Steered { mode } => format!("{}\n", mode.name()),
        Reply::Moved { count, left } => format!("{count} moved, {left} left\n"),
        Reply::Letter(letter) => format!("letter {} {}\n", letter.number, letter.state.name()),
    }
}

fn show_exchanged(world: &World, exchanged: &Exchanged) -> String {
    let mut text = String::new();
    for result in &exchanged.results {
        let came = if result.reason.is_empty() { "counts" } else { &result.reason };
        let withdrawn = if result.withdrawn { ", needed no longer" } else { "" };
        text.push_str(&format!("{} {came}{withdrawn}\n", world.show_id(&result.id)));
    }
    for message in &exchanged.handed {
        text.push_str(&format!("→ {}\n", show_message(world, message)));
    }
    if let Some(at) = exchanged.again_ms {
        text.push_str(&format!("again in {} ms\n", at - world.now_ms));
    }
    if text.is_empty() { "nothing\n".into() } else { text }
}

fn show_message(world: &World, message: &Outgoing) -> String {
    let state = match &message.state {
        MessageState::Ready | MessageState::Asking | MessageState::Dead { .. } => {
            message.state.name().to_owned()
        }
        MessageState::Delayed { until_ms } => {
            // How long exactly is chance's: the bounds are a property.
            format!("delayed {}", if *until_ms > world.now_ms { "yet" } else { "no longer" })
        }
        MessageState::Out { token, connector, .. } => format!("out {token} to {connector}"),
    };
    let mut text = format!("{}. {} {} {state}", message.sequence, world.show_id(&message.id), message.kind);
    if !message.key.is_empty() {
        text.push_str(&format!(" · key {}", message.key));
    }
    if message.attempts > 0 {
        text.push_str(&format!(" · {} failed, the last {:?}", message.attempts, message.failure));
    }
    if message.withdrawn {
        text.push_str(" · needed no longer");
    }
    if !message.received.is_empty() {
        let numbers: Vec<_> = message.received.iter().map(|body| body.number.to_string()).collect();
        text.push_str(&format!(" · received {}", numbers.join(", ")));
    }
    for sub in &message.subs {
        let came = sub.answer.as_ref().map_or("open", |answer| answer.outcome.name());
        text.push_str(&format!(" · {} {came}", world.show_id(&sub.id)));
    }
    text
}

fn show_channel(world: &World, channel: &Channel) -> String {
    let head = channel.head();
    let breaker = match head.account.breaker {
        Breaker::Closed { failures } => format!("closed after {failures}"),
        Breaker::Open { trips, .. } => format!("open for the {trips}."),
        Breaker::HalfOpen { trips } => format!("half open for the {trips}."),
    };
    let counts = head.counts;
    let mut text = format!(
        "{} version {}, breaker {breaker}; {} live, {} out, {} asking, {} dead; {} letters, {} parked\n",
        head.mode.name(),
        head.version,
        counts.live,
        counts.out,
        counts.asking,
        counts.dead,
        counts.letters,
        counts.parked
    );
    let lapses = head.account.lapses;
    if lapses.total() > 0 {
        let Lapses { unheard, overdue, gone } = lapses;
        text.push_str(&format!("lapsed: {unheard} unheard, {overdue} overdue, {gone} gone\n"));
    }
    for message in channel.messages() {
        text.push_str(&format!("{}\n", show_message(world, message)));
    }
    for letter in channel.letters() {
        let more = match &letter.state {
            LetterState::Routing { case } | LetterState::Taken { case, .. } => world.show_id(case),
            LetterState::Parked { reason, .. } | LetterState::Dropped { reason, .. } => reason.clone(),
        };
        text.push_str(&format!(
            "letter {} {} {} {more}\n",
            letter.number,
            letter.outside_id,
            letter.state.name()
        ));
    }
    text
}

/// Asks, exchanges and letters of a case.
pub fn show_dealings(case: &Case, text: &mut String) {
    for asking in case.askings() {
        text.push_str(&format!(
            "ask {} {} waits for {} of {:?}: {}\n",
            asking.number,
            asking.code,
            asking.wait.name(),
            asking.requests,
            asking.state.name()
        ));
    }
    for exchange in case.exchanges() {
        let mut line =
            format!("exchange {} with {}: {}", exchange.number, exchange.channel, exchange.state.name());
        if !exchange.progress.is_empty() {
            line.push_str(&format!(" · {:?}", exchange.progress));
        }
        line.push_str(&format!(" · sent {}", &hex(&exchange.body.sha256)[..8]));
        if let Some(answer) = &exchange.answer {
            line.push_str(&format!(", received {}", &hex(&answer.sha256)[..8]));
        }
        if !exchange.others.is_empty() {
            line.push_str(&format!(", {} others", exchange.others.len()));
        }
        if exchange.forgotten {
            line.push_str(", forgotten");
        }
        text.push_str(&format!("{line}\n"));
    }
    for letter in case.letters() {
        let forgotten = if letter.forgotten { ", forgotten" } else { "" };
        text.push_str(&format!(
            "letter {} by {} {} at {}{forgotten}\n",
            letter.number,
            letter.channel,
            letter.letter.outside_id,
            local(letter.taken_ms)
        ));
    }
}
