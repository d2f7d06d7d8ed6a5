//! Records as people and programs want them.

use super::select::Source;
use crate::api::stream::{LogContent, LogRecord, LogStream};
use crate::cli::context::Context;
use crate::cli::fail::Failure;
use crate::cli::output::write_all;
use crate::domain::ids::TaskId;
use crate::domain::view::LogView;
use crate::logs::LineRenderer;
use base64::Engine;
use std::collections::HashMap;
use std::io::{self, Write};

/// Where the two streams go.
pub(super) type Sink<'a> = &'a mut (dyn FnMut(LogStream, &[u8]) -> Result<(), Failure> + Send);

/// Our own standard output and error.
pub(super) fn to_std(stream: LogStream, bytes: &[u8]) -> Result<(), Failure> {
    match stream {
        LogStream::Stdout => {
            write_all(bytes)?;
        }
        LogStream::Stderr => io::stderr().lock().write_all(bytes)?,
    }
    Ok(())
}

/// Writes records in one of three forms: bytes as they are, lines with a prefix, or JSON.
pub(super) struct Printer<'a> {
    sink: Sink<'a>,
    json: bool,
    /// One per task; none when bytes go out as they are.
    renderers: Option<HashMap<TaskId, LineRenderer>>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(context: &Context, sources: &[Source], timestamps: bool, sink: Sink<'a>) -> Self {
        let width = sources.iter().map(|source| source.name().chars().count()).max().unwrap_or(0);
        let renderer = |source: &Source| {
            let prefix = if sources.len() > 1 { format!("{:<width$} | ", source.name()) } else { String::new() };
            (source.id, LineRenderer::new(prefix, timestamps))
        };
        let dressed = !context.json && (sources.len() > 1 || timestamps);
        Self { sink, json: context.json, renderers: dressed.then(|| sources.iter().map(renderer).collect()) }
    }

    pub(super) fn record(&mut self, source: &Source, record: &LogRecord) -> Result<(), Failure> {
        if self.json {
            let mut line = serde_json::to_vec(&log_view(source, record)).map_err(io::Error::other)?;
            line.push(b'\n');
            return (self.sink)(LogStream::Stdout, &line);
        }
        if let Some(renderer) = self.renderers.as_mut().and_then(|renderers| renderers.get_mut(&source.id)) {
            return write_pieces(self.sink, renderer.render(record));
        }
        match &record.content {
            LogContent::Output { stream, bytes } => (self.sink)(*stream, bytes),
            LogContent::Gap { lost_records, lost_bytes } => {
                let text = format!("wharf: {lost_bytes} bytes of output in {lost_records} records are lost\n");
                (self.sink)(LogStream::Stderr, text.as_bytes())
            }
        }
    }

    /// Writes lines that never got their end.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        for renderer in self.renderers.iter_mut().flat_map(HashMap::values_mut) {
            write_pieces(self.sink, renderer.flush())?;
        }
        Ok(())
    }
}

fn write_pieces(sink: Sink<'_>, pieces: Vec<(LogStream, Vec<u8>)>) -> Result<(), Failure> {
    pieces.iter().try_for_each(|(stream, bytes)| sink(*stream, bytes))
}

fn log_view(source: &Source, record: &LogRecord) -> LogView {
    let (stream, text, base64) = match &record.content {
        LogContent::Output { stream, bytes } => {
            let name = if *stream == LogStream::Stdout { "stdout" } else { "stderr" };
            match std::str::from_utf8(bytes) {
                Ok(text) => (name, Some(text.to_owned()), None),
                Err(_) => (name, None, Some(base64::engine::general_purpose::STANDARD.encode(bytes))),
            }
        }
        LogContent::Gap { lost_records, lost_bytes } => {
            ("gap", Some(format!("{lost_bytes} bytes in {lost_records} records are lost")), None)
        }
    };
    LogView {
        time: record.time,
        stream: stream.to_owned(),
        sequence: record.sequence,
        text,
        base64,
        cursor: record.cursor.clone(),
        task: source.id.to_string(),
        role: source.role.clone(),
        index: source.index,
    }
}
