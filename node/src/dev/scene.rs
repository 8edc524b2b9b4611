//! The course of one `okno dev`: prepare, start, fill, tell the story under load with the leader killed in the middle
//! of it, reach the verdict, and then either stop or stay.

use super::channel::{self, Channel};
use super::cluster::DevCluster;
use super::hall::Hall;
use super::ledger::Ledger;
use super::story::Story;
use super::terminal::{Terminal, counted, decimal};
use super::writers::Writer;
use super::{DevArgs, fixtures, verdict};
use anyhow::{Context, Result, bail};
use okno_client::v1 as proto;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

/// When the leader is killed, counted from the start of the story: always well within it.
const KILL_AFTER_MS: std::ops::Range<u64> = 1_200..4_200;
/// How long work goes on without the killed node before it is started again.
const AWAY: Duration = Duration::from_millis(1_500);
/// The next acknowledged write must come within this, or the cluster counts as stopped.
const NEXT_WRITE_WITHIN: Duration = Duration::from_secs(30);
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// How often a cluster that stays up is looked after.
const WATCH: Duration = Duration::from_millis(500);

/// Runs the whole scene; no child is left when it returns.
pub async fn run(arguments: &DevArgs, directory: &Path, terminal: &Terminal) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut cluster = DevCluster::open(directory, arguments.nodes)?;
    channel::name_connector(&cluster.file)?;
    let local = LocalSet::new();
    let played = tokio::select! {
        played = local.run_until(play(arguments, &mut cluster, terminal)) => played.map(|()| true),
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    };
    // Clients stop before the nodes do.
    drop(local);
    let stays = matches!(played, Ok(true)) && !arguments.once;
    if stays {
        how_to_talk(&cluster, terminal);
        tokio::select! {
            () = report_losses(&mut cluster, terminal) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    terminal.say("Узлы останавливаются…");
    let bad = cluster.stop_all().await;
    if !bad.is_empty() {
        terminal.say(&format!("Не остановились сами или завершились с ошибкой: узлы {bad:?}"));
    }
    match played {
        Err(error) => Err(error),
        Ok(false) => bail!("interrupted"),
        Ok(true) if arguments.once && !bad.is_empty() => {
            bail!("nodes {bad:?} did not stop cleanly on SIGTERM")
        }
        Ok(true) => {
            terminal.say("Все узлы остановлены");
            Ok(())
        }
    }
}

async fn play(arguments: &DevArgs, cluster: &mut DevCluster, terminal: &Terminal) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| rand::thread_rng().r#gen::<u32>().into());
    let run = format!("{:08x}", rand::thread_rng().r#gen::<u32>());
    let nodes = cluster.node_ids();
    terminal.plain(&format!(
        "Okno: {} на этом компьютере, каталог {}",
        counted(nodes.len(), "узел", "узла", "узлов"),
        cluster.file.directory.display()
    ));
    terminal.plain(&format!("Случайный выбор этого запуска повторит ключ --seed {seed}"));
    cluster.start_all()?;
    for node in cluster.file.nodes.clone() {
        let pid = cluster.pid(node.id).unwrap_or_default();
        terminal.say(&format!("Узел {} запущен: {}, процесс {pid}", node.id, node.endpoint));
    }
    let (leader, term) = cluster.wait_ready().await?;
    terminal.say(&format!("Узлы нашли друг друга, ведёт узел {leader} (срок {term})"));

    let service = fill(cluster, terminal).await?;
    cluster.wait_level().await?;
    channel::install(cluster.admin(), &service.code, terminal).await?;

    let ledger = Ledger::default();
    let stop = Rc::new(Cell::new(false));
    let writers = start_writers(cluster, &ledger, &service, seed, &stop, &run)?;
    terminal.say(&format!(
        "{} начали работу в соседнем центре",
        counted(fixtures::WRITERS, "клиент", "клиента", "клиентов")
    ));
    let kiosk = cluster.desk("kiosk", fixtures::STORY_KIOSK)?;
    let officer = cluster.desk("operator", fixtures::STORY_OFFICER)?;
    let mut random = StdRng::seed_from_u64(seed);
    let kill_after = Duration::from_millis(random.gen_range(KILL_AFTER_MS));
    let story =
        Story { terminal, kiosk: &kiosk, officer: &officer, ledger: &ledger, service: &service, run: &run };
    let work = async {
        // Clients at work end only when told to, or with an error, which then ends the whole scene.
        let visitors = futures::future::try_join_all(writers.into_iter().map(|writer| async move {
            tokio::task::spawn_local(writer.work()).await.context("a client at work panicked")?
        }))
        .await?;
        anyhow::Ok(visitors.into_iter().sum::<usize>())
    };
    let events = async {
        let (case, killed) =
            futures::try_join!(story.tell(), lose_leader(cluster, &ledger, kill_after, terminal))?;
        stop.set(true);
        anyhow::Ok((case, killed))
    };
    let (visitors, (case, killed)) = futures::try_join!(work, events)?;
    cluster.check_running()?;
    let gap =
        ledger.first_write_after(killed).context("no write was acknowledged after the leader was killed")?;
    terminal.say(&format!(
        "Работа окончена: подтверждено {}, обслужено {}, дело {case} пройдено до конца",
        counted(ledger.writes(), "шаг", "шага", "шагов"),
        counted(visitors + 1, "посетитель", "посетителя", "посетителей")
    ));

    let hall = Hall { terminal, kiosk: &kiosk, officer: &officer, ledger: &ledger, service: &service };
    hall.tell(cluster).await.context("the hall")?;
    let exchange = Channel { terminal, officer: &officer, ledger: &ledger, service: &service, run: &run };
    exchange.tell(cluster).await.context("the channel")?;
    cluster.check_running()?;

    let verdict = verdict::reach(cluster, &ledger).await?;
    terminal.say(&format!(
        "Каждый узел прочитан по отдельности из своего хранилища: {}, {}, {}, {} — всё подтверждённое на месте, ничего дважды",
        counted(verdict.cases, "дело", "дела", "дел"),
        counted(verdict.documents, "документ", "документа", "документов"),
        counted(verdict.steps, "шаг дел", "шага дел", "шагов дел"),
        counted(verdict.tickets, "талон", "талона", "талонов")
    ));
    terminal.say(&format!(
        "Цепочки хешей совпадают: запись {}, {}…",
        verdict.chain_index,
        short(&verdict.chain)
    ));
    terminal.say(&format!(
        "Дайджесты всех строк совпадают: запись {}, {}…",
        verdict.marker_index,
        short(&verdict.digest)
    ));
    terminal.say(&format!(
        "Итог: ведущий узел потерян и возвращён, перерыв в записи {} с, не потеряно и не удвоено ничего",
        decimal(gap.as_secs_f64(), 2)
    ));
    Ok(())
}

/// The catalogue as shipped and a small directory, through the public interface.
async fn fill(cluster: &DevCluster, terminal: &Terminal) -> Result<Rc<proto::Service>> {
    let admin = cluster.admin();
    let loaded = admin.load_catalogue().await.context("loading the catalogue")?;
    terminal.say(&format!(
        "Каталог услуг и производственные календари загружены: {}, версия {}",
        counted((loaded.changed + loaded.unchanged) as usize, "запись", "записи", "записей"),
        loaded.version
    ));
    admin.load_directory().await.context("loading the directory")?;
    terminal.say(&format!(
        "Загружен справочник: {}, {}, {}",
        counted(fixtures::offices().len(), "центр", "центра", "центров"),
        counted(fixtures::windows().len(), "окно", "окна", "окон"),
        counted(fixtures::people().len(), "сотрудник", "сотрудника", "сотрудников")
    ));
    // The story pauses and resumes the term: it needs a service that names a reason for that, and takes citizens.
    let services = admin.list_services().await.context("listing services")?;
    let suited = |service: &&proto::Service| {
        let takes_citizens = service.receivers.is_empty()
            || service.receivers.iter().any(|kind| *kind == i32::from(proto::ReceiverKind::Person));
        service.active && takes_citizens && !service.suspension_reasons.is_empty()
    };
    let service =
        services.iter().find(suited).or(services.first()).context("the catalogue holds no service")?;
    Ok(Rc::new(service.clone()))
}

fn start_writers(
    cluster: &DevCluster,
    ledger: &Ledger,
    service: &Rc<proto::Service>,
    seed: u64,
    stop: &Rc<Cell<bool>>,
    run: &str,
) -> Result<Vec<Writer>> {
    let kiosk = Rc::new(cluster.desk("kiosk", fixtures::BUSY_KIOSK)?);
    let run: Rc<str> = Rc::from(run);
    (0..fixtures::WRITERS)
        .map(|number| {
            Ok(Writer {
                number,
                officer: cluster.desk("operator", &fixtures::writer_officer(number))?,
                kiosk: Rc::clone(&kiosk),
                ledger: ledger.clone(),
                service: Rc::clone(service),
                seed,
                stop: Rc::clone(stop),
                run: Rc::clone(&run),
            })
        })
        .collect()
}

/// Kills the leader with SIGKILL, waits for the next acknowledged write, starts the node again and waits until it has
/// caught up. Returns the moment of the kill.
async fn lose_leader(
    cluster: &mut DevCluster,
    ledger: &Ledger,
    after: Duration,
    terminal: &Terminal,
) -> Result<Instant> {
    tokio::time::sleep(after).await;
    let leader = cluster.leader().await?;
    let alone = cluster.node_ids().len() < 3;
    let before = ledger.writes();
    let killed = Instant::now();
    cluster.kill(leader).await?;
    terminal.say(&format!(
        "──► Ведущий узел {leader} убит (SIGKILL); до этого подтверждено {}",
        counted(before, "шаг", "шага", "шагов")
    ));
    if alone {
        // Without it there is no majority: nothing goes on before it is back.
        cluster.start(leader)?;
        terminal.say(&format!("──► Узел {leader} запущен снова: без него нет большинства"));
    }
    let gap = loop {
        if let Some(gap) = ledger.first_write_after(killed) {
            break gap;
        }
        if killed.elapsed() > NEXT_WRITE_WITHIN {
            bail!("no write was acknowledged within {NEXT_WRITE_WITHIN:?} after node {leader} was killed");
        }
        tokio::time::sleep(POLL).await;
    };
    let next = cluster.leader().await?;
    terminal.say(&format!(
        "──► Ведёт узел {next}, следующая запись подтверждена через {} с",
        decimal(gap.as_secs_f64(), 2)
    ));
    if !alone {
        tokio::time::sleep(AWAY).await;
        cluster.start(leader)?;
        terminal.say(&format!("──► Узел {leader} запущен снова и догоняет"));
    }
    let behind = ledger.index_highest();
    let started = Instant::now();
    let applied = cluster.wait_applied(leader, behind, CATCH_UP_WITHIN).await?;
    terminal.say(&format!(
        "──► Узел {leader} догнал остальных за {} с (запись {applied})",
        decimal(started.elapsed().as_secs_f64(), 2)
    ));
    Ok(killed)
}

fn how_to_talk(cluster: &DevCluster, terminal: &Terminal) {
    let context = cluster.file.context.display();
    terminal.plain("");
    terminal.plain("Кластер работает; Ctrl-C останавливает его. Говорить с ним:");
    terminal.plain(&format!("  oknoctl --config {context} status"));
    terminal.plain(&format!("  oknoctl --config {context} catalogue show"));
    terminal.plain(&format!("  oknoctl --config {context} queue list --office {}", fixtures::STORY_OFFICE));
    terminal.plain(&format!("  oknoctl --config {context} channel show {}", channel::CHANNEL));
    terminal.plain(&format!("  oknoctl --config {context} bench"));
    terminal.plain(&format!(
        "Адреса, сертификаты и номера процессов: {}",
        super::prepare::DevFile::path(&cluster.file.directory).display()
    ));
}

/// Says so when a node of a cluster that stays up ends by itself; a developer may have meant it.
async fn report_losses(cluster: &mut DevCluster, terminal: &Terminal) {
    let mut reported = false;
    loop {
        tokio::time::sleep(WATCH).await;
        if let Err(error) = cluster.check_running()
            && !reported
        {
            terminal.say(&format!("{error:#}"));
            reported = true;
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}
