//! Questions and answers, a line each.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

use super::talk::{Broken, Talk};
use super::world::World;

/// What a question must be answered by.
fn answer_to(talk: &Talk, question: u64) -> String {
    let word = (talk.number << 20 ^ question).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("answer {} {question} {word:016x}\n", talk.number)
}

/// The client: asks `legs[0].total` questions, or until told to finish, and times each answer.
pub async fn ask(
    world: &World,
    talk: &Talk,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Broken> {
    let (leg, mut finish) = (talk.legs[0], talk.finish.subscribe());
    for question in 0..leg.total {
        if *finish.borrow() {
            break;
        }
        let asked = Instant::now();
        to.write_all(format!("question {} {question}\n", talk.number).as_bytes()).await?;
        let (line, due) = (line(from).await?, answer_to(talk, question));
        if line.is_empty() {
            return Err(Broken::Early(format!("an end instead of answer {question}")));
        }
        if line != due {
            return Err(Broken::Wrong(format!("{line:?} is not {due:?}")));
        }
        talk.moved(world);
        world.answered(asked.elapsed().as_secs_f64());
        let pause = leg.pause.mul_f64(0.5 + fastrand::f64());
        let _ = tokio::time::timeout(pause.max(Duration::from_millis(1)), finish.wait_for(|finish| *finish)).await;
    }
    to.shutdown().await?;
    match line(from).await?.as_str() {
        "" => Ok(()),
        line => Err(Broken::Wrong(format!("{line:?} after the last answer"))),
    }
}

/// The server.
pub async fn answer(
    world: &World,
    talk: &Talk,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Broken> {
    for question in 0.. {
        let (line, due) = (line(from).await?, format!("question {} {question}\n", talk.number));
        if line.is_empty() {
            break;
        }
        if line != due {
            return Err(Broken::Wrong(format!("{line:?} is not {due:?}")));
        }
        talk.moved(world);
        to.write_all(answer_to(talk, question).as_bytes()).await?;
    }
    to.shutdown().await?;
    Ok(())
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<String, Broken> {
    let mut line = String::new();
    match from.read_line(&mut line).await {
        Ok(_) => Ok(line),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(Broken::Wrong("no text".to_owned())),
        Err(error) => Err(error.into()),
    }
}
