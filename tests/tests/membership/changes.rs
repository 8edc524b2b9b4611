//! The members change under load: the cluster grows and shrinks, machines are replaced and come back wiped, and every
//! refusal says why.

use crate::{WATCHED, WITHIN, WRITERS, check, farewell, quorum, short, start, stop_and_verify, voters};
use futures::future::{Either, select};
use okno_client::{CallOptions, Class, v1 as proto};
use okno_tests::{
    cluster::okno,
    desk::local,
    eventually,
    load::Load,
    members::{self, numbers, oknoctl},
    plan::Plan,
};
use std::{pin::pin, time::Duration};

/// How long a node is asked that has nobody to ask itself.
const ALONE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn one_grows_to_five_and_shrinks_to_one_under_load() {
    let mut cluster = start(&short(1)).await;
    // Those who work are told of all machines beforehand.
    for id in 2..=6 {
        cluster.make_joiner(id);
    }
    let load = Load::start(&cluster, WRITERS);
    load.progress(200).await;

    // Only tried: it says what would be, and nothing is.
    let address = cluster.entry(2).peers.to_string();
    let tried = oknoctl(&cluster, &["member", "add", "2", "--address", &address, "--dry-run"]).await.done();
    let change = &tried;
    assert_eq!(quorum(change, "before"), (vec![1], vec![], 1), "{change}");
    assert_eq!(quorum(change, "after"), (vec![1], vec![2], 1), "{change}");
    assert_eq!(change["index"], 0);
    assert_eq!(voters(&cluster).await, [1]);

    for id in 2..=5 {
        cluster.start_node(id);
        let took = cluster.add_voter(id, WITHIN).await;
        println!("node {id} votes {took:?} after it was added");
        load.progress(50).await;
    }
    assert_eq!(voters(&cluster).await, [1, 2, 3, 4, 5]);

    // Back to three; whoever leads hands over before it goes. The only founder goes first.
    for node in [1, cluster.leader().await.max(2)] {
        let removed = cluster.remove_member(node).await.done();
        assert!(!quorum(&removed, "after").0.contains(&node), "{removed}");
        load.progress(50).await;
        farewell(&mut cluster, node).await;
    }
    assert_eq!(voters(&cluster).await.len(), 3);

    // A node joins that knows nobody but a founder that is gone.
    cluster.start_node(6);
    cluster.add_voter(6, WITHIN).await;
    load.progress(50).await;

    // And down to one.
    while let [node, _, ..] = cluster.ids()[..] {
        cluster.remove_member(node).await.done();
        farewell(&mut cluster, node).await;
        load.progress(50).await;
    }
    let last = cluster.ids()[0];
    assert_eq!(voters(&cluster).await, [last]);
    assert_eq!(cluster.remove_member(last).await.refused(), "QUORUM_WOULD_BE_LOST");
    check(&mut cluster, load).await;
    stop_and_verify(&mut cluster).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_says_why() {
    let mut cluster = start(&Plan::of(3)).await;
    let address = |cluster: &okno_tests::cluster::Cluster, node: u64| cluster.entry(node).peers.to_string();
    let two = address(&cluster, 2);
    for (arguments, reason) in [
        (vec!["add", "2", "--address", "127.0.0.1:9"], "MEMBER_ALREADY"),
        (vec!["add", "4", "--address", two.as_str()], "MEMBER_ADDRESS_TAKEN"),
        (vec!["promote", "9"], "MEMBER_UNKNOWN"),
        (vec!["remove", "9"], "MEMBER_UNKNOWN"),
    ] {
        let arguments = [vec!["member"], arguments].concat();
        assert_eq!(oknoctl(&cluster, &arguments).await.refused(), reason, "{arguments:?}");
    }
    // What is so already is no error: a call whose outcome was unknown can be made again.
    let again = oknoctl(&cluster, &["member", "add", "2", "--address", &two]).await.done();
    assert_eq!(again["already"], true, "{again}");
    let denied =
        cluster.officer().call(proto::RemoveMemberRequest { node_id: 3, ..Default::default() }).await;
    assert_eq!(denied.expect_err("an officer may not").reason(), "METHOD_NOT_ALLOWED");

    // A learner that is not there is not promoted, neither by itself nor when asked.
    cluster.make_joiner(4);
    let four = address(&cluster, 4);
    oknoctl(&cluster, &["member", "add", "4", "--address", &four]).await.done();
    assert_eq!(voters(&cluster).await, [1, 2, 3]);
    let early = oknoctl(&cluster, &["member", "promote", "4"]).await.refused();
    assert!(["LEARNER_BEHIND", "FEATURE_LEVEL_UNSUPPORTED"].contains(&early.as_str()), "{early}");
    // Taken out before it ever came: its id is used.
    oknoctl(&cluster, &["member", "remove", "4"]).await.done();
    let used = oknoctl(&cluster, &["member", "add", "4", "--address", &four]).await.refused();
    assert_eq!(used, "MEMBER_ID_USED");
    cluster.start_node(4);
    farewell(&mut cluster, 4).await;

    // With one voter down no other may go, for two of the two that stay would have to be up; the one that is down may.
    let (leader, _) = cluster.wait_ready().await;
    let followers: Vec<u64> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
    let (down, up) = (followers[0], followers[1].to_string());
    cluster.kill(down);
    let () = eventually("it is missed", WITHIN, async || {
        let refused = oknoctl(&cluster, &["member", "remove", &up, "--dry-run"]).await;
        if refused.reason == "QUORUM_WOULD_BE_LOST" { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await;
    assert_eq!(oknoctl(&cluster, &["member", "remove", &up]).await.refused(), "QUORUM_WOULD_BE_LOST");
    let dry = oknoctl(&cluster, &["member", "remove", &down.to_string(), "--dry-run"]).await.done();
    let (before, after) = (quorum(&dry, "before"), quorum(&dry, "after"));
    assert_eq!((before.0.len(), before.2, after.0.len(), after.2), (3, 2, 2, 2), "{dry}");
    assert_eq!((dry["before"]["able"].as_u64(), dry["after"]["able"].as_u64()), (Some(2), Some(2)), "{dry}");
    cluster.start_node(down);

    // One change at a time: the first of two cannot be committed while both followers stand still. A leader that hears
    // nobody steps down within a second; on a busy machine that may come first, and the scene is played again.
    let mut seen = Vec::new();
    for attempt in 0..10 {
        let (leader, _) = cluster.wait_ready().await;
        let at = cluster.desk_at(leader, "admin", "dev");
        let add = |node_id: u64| {
            let address = format!("127.0.0.1:{node_id}");
            at.once(proto::AddMemberRequest { node_id, address, ..Default::default() })
        };
        let followers: Vec<u64> = cluster.ids().into_iter().filter(|node| *node != leader).collect();
        for node in &followers {
            cluster.pause(*node);
        }
        let (one, other) = (pin!(add(100 + attempt)), pin!(add(200 + attempt)));
        let (first, rest) = match select(one, other).await {
            Either::Left(answered) | Either::Right(answered) => answered,
        };
        for node in &followers {
            cluster.resume(*node);
        }
        println!("the other change came to {:?}", rest.await.map(|answer| answer.change.map(|c| c.index)));
        seen.push(first.map_or_else(|error| error.reason().to_owned(), |answer| format!("{answer:?}")));
        if seen.last().is_some_and(|reason| reason == "MEMBER_CHANGE_IN_FLIGHT") {
            break;
        }
    }
    assert!(seen.iter().any(|reason| reason == "MEMBER_CHANGE_IN_FLIGHT"), "{seen:?}");
    cluster.wait_ready().await;
    cluster.assert_alike().await;
}

/// Any node may be asked: one that follows has its leader do it, and tells what the leader said.
#[tokio::test]
async fn a_node_that_follows_has_its_leader_change_the_members() {
    let mut cluster = start(&Plan::of(3)).await;
    for node in cluster.ids() {
        eventually("every node is at the level from which on the leader is asked", WITHIN, async || {
            let status = cluster.status(node).await.map_err(|error| error.to_string())?;
            if status.level >= 3 { Ok(()) } else { Err(format!("node {node}: level {}", status.level)) }
        })
        .await;
    }
    cluster.make_joiner(4);
    let four = cluster.entry(4).peers.to_string();
    let add = ["member", "add", "4", "--address", &four];
    let at = |node: u64, arguments: &[&str]| [&["--node", &node.to_string()], arguments].concat().join(" ");
    let asked = async |cluster: &okno_tests::cluster::Cluster, node: u64, arguments: &[&str]| {
        let line = at(node, arguments);
        oknoctl(cluster, &line.split(' ').collect::<Vec<_>>()).await
    };
    // Leadership may wander on a busy machine: until one that follows was asked and another has planned it.
    let (follower, dry) = eventually("the leader plans it for another", WITHIN, async || {
        let follower = cluster.follower().await;
        let dry = asked(&cluster, follower, &[&add[..], &["--dry-run"]].concat()).await.done();
        if dry["served_by"].as_u64() == Some(follower) { Err(dry) } else { Ok((follower, dry)) }
    })
    .await;
    assert_eq!(dry["index"], 0, "{dry}");
    assert_eq!(quorum(&dry, "after"), (vec![1, 2, 3], vec![4], 2), "{dry}");

    let added = asked(&cluster, follower, &add).await.done();
    assert!(added["index"].as_u64().is_some_and(|index| index > 0), "{added}");
    assert_eq!(asked(&cluster, follower, &add).await.done()["already"], true);
    let early = asked(&cluster, follower, &["member", "promote", "4"]).await.refused();
    assert!(["LEARNER_BEHIND", "FEATURE_LEVEL_UNSUPPORTED"].contains(&early.as_str()), "{early}");
    asked(&cluster, follower, &["member", "remove", "4"]).await.done();
    assert_eq!(asked(&cluster, follower, &add).await.refused(), "MEMBER_ID_USED");
    cluster.retire(4);

    // The leader itself goes when another node is asked for it: it hands over first.
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    asked(&cluster, follower, &["member", "remove", &leader.to_string()]).await.done();
    farewell(&mut cluster, leader).await;
    let left: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    assert_eq!(voters(&cluster).await, left);
    cluster.assert_alike().await;
}

#[tokio::test]
async fn a_wiped_machine_comes_back_under_a_new_id_only() {
    let mut cluster = start(&short(3)).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let lost = cluster.follower().await;
    cluster.kill(lost);
    cluster.wipe(lost);
    load.progress(200).await;

    // Nothing there: it is no node.
    let (status, said) = cluster.start_refused(lost, WITHIN);
    assert!(!status.success() && said.contains("never used"), "{status}: {said}");
    // Its old id, to join: the list has it.
    let entry = cluster.entry(lost).clone();
    let refused = cluster.init_joiner(&entry).expect_err("a founder does not join");
    assert!(refused.contains("is a founder"), "{refused}");
    // Its old id, made anew as in the beginning: the others know another incarnation.
    let settings = entry.settings.to_str().expect("temporary folders have plain names");
    let made = okno(&["init", "--config", settings, "--members", cluster.founders()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    cluster.start_node(lost);
    let (reason, remedy) = cluster.wait_closed(lost, WITHIN).await;
    assert!(reason.contains("incarnation") && remedy.contains("never used"), "{reason}; {remedy}");
    cluster.terminate(lost).await;
    // It remembers.
    cluster.start_node(lost);
    cluster.wait_closed(lost, WITHIN).await;
    cluster.terminate(lost).await;

    // Under a new id, at the old address.
    cluster.wipe(lost);
    cluster.make_joiner_at(4, lost);
    cluster.start_node(4);
    let (old, address) = (lost.to_string(), cluster.entry(4).peers.to_string());
    let replace = ["member", "replace", &old, "--with", "4", "--address", &address];
    let dry = oknoctl(&cluster, &[&replace[..], &["--dry-run"]].concat()).await.done();
    assert!(numbers(&dry["before"]["voters"]).contains(&lost), "{dry}");
    assert!(!numbers(&dry["after"]["voters"]).contains(&lost) && dry["index"] == 0, "{dry}");
    let replaced = oknoctl(&cluster, &replace).await;
    assert_eq!((replaced.code, replaced.answers.len()), (0, 2), "{replaced:?}");
    println!("replaced within {:?}", replaced.took);
    cluster.wait_voter(4, WITHIN).await;
    assert!(!voters(&cluster).await.contains(&lost));
    // Asked again it says that it is so.
    let again = oknoctl(&cluster, &replace).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.answers.iter().all(|answer| answer["already"] == true), "{again:?}");
    load.progress(100).await;

    // Who joined and is wiped in turn is told as well.
    cluster.kill(4);
    cluster.wipe(4);
    cluster.init_joiner(&cluster.entry(4).clone()).expect("nothing here says that the id is used");
    cluster.start_node(4);
    let (reason, remedy) = cluster.wait_closed(4, WITHIN).await;
    assert!(reason.contains("incarnation") && remedy.contains("never used"), "{reason}; {remedy}");
    load.progress(50).await;
    cluster.terminate(4).await;
    cluster.retire(4);
    check(&mut cluster, load).await;
    stop_and_verify(&mut cluster).await;
}

#[tokio::test]
async fn the_leaders_machine_is_replaced_under_load() {
    let mut cluster = start(&short(3)).await;
    cluster.make_joiner(4);
    let load = Load::start(&cluster, WRITERS);
    load.progress(300).await;
    let old = cluster.leader().await;
    cluster.start_node(4);
    let (from, address) = (old.to_string(), cluster.entry(4).peers.to_string());
    let replace = ["member", "replace", &from, "--with", "4", "--address", &address];
    let dry = oknoctl(&cluster, &[&replace[..], &["--dry-run"]].concat()).await.done();
    assert_eq!(quorum(&dry, "after"), (vec![1, 2, 3], vec![4], 2), "{dry}");
    assert_eq!(voters(&cluster).await, [1, 2, 3]);
    let replaced = oknoctl(&cluster, &replace).await;
    assert_eq!((replaced.code, replaced.answers.len()), (0, 2), "{replaced:?}");
    println!("replaced within {:?}", replaced.took);
    farewell(&mut cluster, old).await;
    load.progress(100).await;
    cluster.wait_installed(4, WITHIN).await;
    check(&mut cluster, load).await;

    // The one that was taken out stays out: it closed itself for good.
    let listed = oknoctl(&cluster, &["member", "list"]).await.done();
    let listed: Vec<u64> =
        listed["members"].as_array().expect("a list").iter().filter_map(|m| m["node_id"].as_u64()).collect();
    assert_eq!(listed, cluster.ids(), "in the order of their ids");
    stop_and_verify(&mut cluster).await;
}

/// A removed node that was down when it was taken out is told at its return, also when it has applied nothing of it.
#[tokio::test]
async fn who_was_away_while_taken_out_is_told_so() {
    let mut cluster = start(&Plan::of(3)).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let gone = cluster.follower().await;
    cluster.kill(gone);
    let () = eventually("it is taken out", WITHIN, async || {
        let removed = cluster.remove_member(gone).await;
        if removed.code == 0 { Ok(()) } else { Err(format!("{removed:?}")) }
    })
    .await;
    load.progress(50).await;
    cluster.start_node(gone);
    let (reason, _) = cluster.wait_closed(gone, WITHIN).await;
    assert!(reason.starts_with("removed"), "{reason}");
    let options = CallOptions { deadline: Some(WATCHED), once: true, ..CallOptions::default() };
    let read = proto::ListServicesRequest { page_size: 1, ..Default::default() };
    let closed = cluster.desk_at(gone, "auditor", "revizor").client.call_with(read, options).await;
    assert_eq!(closed.expect_err("it serves nothing").reason(), "NODE_QUARANTINED");
    let health =
        okno_tests::http::get(cluster.entry(gone).health, "/readyz").await.expect("health stays open");
    assert!(health.contains("503"), "{health}");
    cluster.terminate(gone).await;
    cluster.start_node(gone);
    farewell(&mut cluster, gone).await;
    let seen = members::members(&cluster.status(cluster.leader().await).await.expect("it answers"));
    assert_eq!(seen.len(), 2, "{seen:?}");
    check(&mut cluster, load).await;
}

/// As above, of one that only stood still: its links outlived it, and nothing in the log ever tells it.
#[tokio::test]
async fn who_stood_still_while_taken_out_is_told_so() {
    let mut cluster = start(&Plan::of(3)).await;
    let load = Load::start(&cluster, WRITERS);
    load.progress(100).await;
    let still = cluster.follower().await;
    cluster.pause(still);
    let dry = ["member", "remove", &still.to_string(), "--dry-run"];
    let () = eventually("it is missed", WITHIN, async || {
        let tried = oknoctl(&cluster, &dry).await.done();
        if tried["before"]["able"] == 2 { Ok(()) } else { Err(tried) }
    })
    .await;
    cluster.remove_member(still).await.done();
    cluster.resume(still);
    farewell(&mut cluster, still).await;
    load.progress(50).await;
    check(&mut cluster, load).await;
}

/// Levels never fall: who has not heard of the raised one, since it has not caught up, must not refuse for good what another
/// node would do (rule 2).
#[tokio::test]
async fn who_has_not_heard_of_the_level_refuses_nothing_for_it() {
    let mut cluster = start(&Plan::of(1)).await;
    let at_level = async |cluster: &okno_tests::cluster::Cluster, node: u64| {
        eventually("the newest level", WITHIN, async || {
            let status = cluster.status(node).await.map_err(|error| error.to_string())?;
            if status.level >= 3 { Ok(()) } else { Err(format!("node {node}: level {}", status.level)) }
        })
        .await;
    };
    at_level(&cluster, 1).await;
    // Made to join and not added yet: it answers, and has nothing.
    cluster.make_joiner(2);
    cluster.start_node(2);
    let apart = cluster.desk_at(2, "admin", "dev");
    let level = eventually("it answers", WITHIN, async || match apart.status().await {
        Ok(status) => Ok(status.level),
        Err(error) => Err(error.to_string()),
    })
    .await;
    assert_eq!(level, 1);
    let channels = || proto::ListChannelsRequest { read: local() };
    let options = CallOptions { deadline: Some(ALONE), once: true, ..CallOptions::default() };
    let error = apart.client.call_with(channels(), options).await.expect_err("it has nobody to ask");
    assert_eq!(error.class(), Class::NotApplied, "{error}");

    cluster.add_voter(2, WITHIN).await;
    at_level(&cluster, 2).await;
    apart.call(channels()).await.expect("it has heard of the level");
    stop_and_verify(&mut cluster).await;
}
