//! Taking over a connection, with something that plays dockerd.

use super::*;
use std::path::PathBuf;
use tokio::net::UnixListener;

/// Answers one request with these bytes, a piece at a time, then closes.
fn plays(answer: &[&[u8]]) -> (tempfile::TempDir, PathBuf, tokio::task::JoinHandle<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let answer: Vec<Vec<u8>> = answer.iter().map(|piece| piece.to_vec()).collect();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
        }
        for piece in answer {
            stream.write_all(&piece).await.ok();
            tokio::task::yield_now().await;
        }
        String::from_utf8(request).unwrap()
    });
    (dir, path, heard)
}

async fn answered(tty: bool, answer: &[&[u8]]) -> Result<Vec<ExecOutput>, ClientError> {
    let (_dir, path, heard) = plays(answer);
    let (mut output, _input) = start(&path, (1, 41), "abc", tty).await?;
    let mut pieces = Vec::new();
    while let Some(piece) = output.next().await {
        pieces.push(piece?);
    }
    let request = heard.await.unwrap();
    assert!(request.starts_with("POST /v1.41/exec/abc/start HTTP/1.1\r\n"), "{request}");
    let body = request.split("\r\n\r\n").nth(1).unwrap();
    assert!(request.contains(&format!("Content-Length: {}\r\n", body.len())), "{request}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["Tty"], tty);
    Ok(pieces)
}

/// Pieces of one output put together again.
fn joined(pieces: Vec<ExecOutput>) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for piece in pieces {
        match piece {
            ExecOutput::Stdout(bytes) => out.extend(bytes),
            ExecOutput::Stderr(bytes) => err.extend(bytes),
            ExecOutput::Exited(_) => panic!("not known here"),
        }
    }
    (out, err)
}

const UPGRADED: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";

#[tokio::test]
async fn a_terminals_bytes_are_its_own_whatever_they_are() {
    let bytes = b"\x01\0\0\0\0\0\0\x05abc\x02\0no frame\n\0";
    let pieces = answered(true, &[UPGRADED, &bytes[..3], &bytes[3..]]).await.unwrap();
    assert_eq!(joined(pieces), (bytes.to_vec(), Vec::new()));
    // With the head in the same read, and the head in two.
    let all = [UPGRADED, bytes].concat();
    for cut in [0, 10, UPGRADED.len() - 1, UPGRADED.len() + 2] {
        let pieces = answered(true, &[&all[..cut], &all[cut..]]).await.unwrap();
        assert_eq!(joined(pieces).0, bytes, "cut at {cut}");
    }
}

#[tokio::test]
async fn frames_are_cut_and_put_together() {
    let framed =
        [b"\x01\0\0\0\0\0\0\x03out".as_slice(), b"\x02\0\0\0\0\0\0\x00", b"\x02\0\0\0\0\0\0\x04\x01\0er"].concat();
    for cut in 0..framed.len() {
        let pieces = answered(false, &[UPGRADED, &framed[..cut], &framed[cut..]]).await.unwrap();
        assert_eq!(joined(pieces), (b"out".to_vec(), b"\x01\0er".to_vec()), "cut at {cut}");
    }
    let error = answered(false, &[UPGRADED, b"no frame at all"]).await.unwrap_err();
    assert!(error.to_string().contains("no frame"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_dockerds_sentence() {
    let body = br#"{"message":"Container abc is paused"}"#;
    let head = format!("HTTP/1.1 409 Conflict\r\ncontent-length: {}\r\n\r\n", body.len());
    let error = answered(false, &[head.as_bytes(), &body[..7], &body[7..]]).await.unwrap_err();
    let ClientError::DockerResponseServerError { status_code: 409, message } = error else { panic!("{error}") };
    assert_eq!(message, "Container abc is paused");
    let error = answered(false, &[b"HTTP/1.1 500 No\r\n\r\nplain"]).await.unwrap_err();
    assert!(
        matches!(error, ClientError::DockerResponseServerError { status_code: 500, message } if message == "plain")
    );
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    for answer in [b"".as_slice(), b"HTTP/1.1 101 UPGR", b"SSH-2.0-x\r\n\r\n", &[b'x'; MAX_HEAD_BYTES + 1024]] {
        let error = answered(false, &[answer]).await.unwrap_err();
        assert!(matches!(error, ClientError::IOError { .. }), "{error}");
    }
}
