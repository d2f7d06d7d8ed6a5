//! What wharf says about itself: log lines on standard error, and the time they and everything else go by.
//!
//! `WHARF_LOG` chooses what is logged, as in `info,wharf::agent=debug`; without it, the default level.

pub mod audit;
pub mod clock;

use std::str::FromStr;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::MakeWriter;

/// The variable that holds the filter.
pub const LOG_VARIABLE: &str = "WHARF_LOG";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(TelemetryError::Format { found: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    #[error("log format: found '{found}'; allowed: text, json")]
    Format { found: String },
    #[error(
        "{LOG_VARIABLE}: found '{found}' ({message}); allowed: a level (error, warn, info, debug, trace, off) or a list such as 'info,wharf::agent=debug'"
    )]
    Filter { found: String, message: String },
    #[error("starting the log: {message}")]
    Start { message: String },
}

/// Starts logging to standard error; once in a process.
///
/// A wrong `WHARF_LOG` is an error: else the one who set it would look for lines that never come.
pub fn init(format: LogFormat, level: Level, color: bool) -> Result<(), TelemetryError> {
    let filter = filter(std::env::var(LOG_VARIABLE).ok().as_deref(), level)?;
    let subscriber = subscriber(format, filter, color, std::io::stderr);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| TelemetryError::Start { message: error.to_string() })
}

/// What is logged: the variable if it says anything, else `level`.
fn filter(variable: Option<&str>, level: Level) -> Result<EnvFilter, TelemetryError> {
    let default = Directive::from(level);
    let text = variable.unwrap_or_default().trim();
    EnvFilter::builder()
        .with_default_directive(default)
        .parse(text)
        .map_err(|error| TelemetryError::Filter { found: text.to_owned(), message: error.to_string() })
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    color: bool,
    writer: W,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(color);
    match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_ansi(false).finish()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, variable: Option<&str>) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter(variable, Level::INFO).unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(job = 7, "placed");
            tracing::debug!("considered");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_variable_decides_else_the_level() {
        let count = |variable| logged(LogFormat::Text, variable).lines().count();
        assert_eq!((count(None), count(Some(" ")), count(Some("debug")), count(Some("error"))), (1, 1, 2, 0));
        assert_eq!(count(Some("wharf::telemetry=debug")), 2);
    }

    #[test]
    fn json_is_one_object_per_line() {
        let object: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, None)).unwrap();
        assert_eq!(
            (&object["job"], &object["message"], &object["level"]),
            (&7.into(), &"placed".into(), &"INFO".into())
        );
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn mistakes_name_what_is_allowed() {
        let error = filter(Some("wharf=loud"), Level::INFO).unwrap_err().to_string();
        assert!(error.contains("WHARF_LOG: found 'wharf=loud'") && error.contains("debug"), "{error}");
        assert_eq!(
            "xml".parse::<LogFormat>().unwrap_err().to_string(),
            "log format: found 'xml'; allowed: text, json"
        );
    }
}
