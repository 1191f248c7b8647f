//! One parser a kind of value, shared by flags and environment variables. Errors say what is accepted.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Speculation;
use crate::engine::kv::CacheType;
use crate::machine::limits::{Affinity, Threads};

use super::{ApiKeys, UseCase};

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

pub(super) fn text(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a value is needed".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// `*` alone, or origins as browsers send them.
pub(super) fn cors_origin(text: &str) -> Result<String, String> {
    let text = self::text(text)?;
    let is_origin = |origin: &str| {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|h| !h.is_empty() && h.bytes().all(|b| b.is_ascii_graphic() && !b"/*,".contains(&b)))
    };
    if text == "*" || text.split(',').all(|origin| is_origin(origin.trim())) {
        return Ok(text);
    }
    Err("`*`, or origins such as https://app.example.org, separated by commas".to_owned())
}

/// No names but `localhost`: a static program in an empty image has nothing to resolve them with.
pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        _ => text
            .parse()
            .map_err(|_| "an IP address is needed, such as 0.0.0.0, 127.0.0.1 or ::".to_owned()),
    }
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| "a port is a number from 0 to 65535".to_owned())
}

pub(super) fn ctx_size(text: &str) -> Result<usize, String> {
    number(text, 0, 1 << 24)
}

pub(super) fn parallel(text: &str) -> Result<usize, String> {
    number(text, 1, 256)
}

pub(super) fn batch_size(text: &str) -> Result<usize, String> {
    number(text, 1, 1 << 16)
}

pub(super) fn queue_size(text: &str) -> Result<usize, String> {
    number(text, 0, 1 << 16)
}

pub(super) fn cache_type(text: &str) -> Result<CacheType, String> {
    text.parse()
}

fn number(text: &str, least: usize, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("a number from {least} to {most} is needed")),
    }
}

pub(super) fn threads(text: &str) -> Result<Threads, String> {
    // llama-server's spelling of `auto`.
    if text == "-1" { Ok(Threads::Auto) } else { text.parse() }
}

pub(super) fn affinity(text: &str) -> Result<Affinity, String> {
    text.parse()
        .map_err(|error: <Affinity as std::str::FromStr>::Err| error.to_string())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" => Ok(true),
        "0" | "false" | "off" | "no" => Ok(false),
        _ => Err("true or false is needed".to_owned()),
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("a number of seconds is needed".to_owned()),
    }
}

pub(super) fn api_keys(text: &str) -> Result<ApiKeys, String> {
    let keys: Vec<String> = text
        .split(',')
        .map(|key| key.trim().to_owned())
        .filter(|key| !key.is_empty())
        .collect();
    if keys.is_empty() {
        Err("at least one key is needed".to_owned())
    } else {
        Ok(ApiKeys(keys))
    }
}

pub(super) fn use_case(text: &str) -> Result<UseCase, String> {
    match text {
        "high_performance" => Ok(UseCase::HighPerformance),
        "balanced" => Ok(UseCase::Balanced),
        "memory_efficient" => Ok(UseCase::MemoryEfficient),
        _ => Err("high_performance, balanced or memory_efficient is needed".to_owned()),
    }
}

pub(super) fn spec_type(text: &str) -> Result<Speculation, String> {
    text.parse()
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json is needed".to_owned()),
    }
}

/// Levels and lists of them. To the filter a bare word that is no level names a module, and silences everything else:
/// only words that look like one are taken for it.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let understood = |directive: &str| {
        let level = LEVELS.iter().any(|level| directive.eq_ignore_ascii_case(level));
        level || directive.contains(['=', '[']) || directive.contains("::") || directive == "sterna"
    };
    let words = text.split(',').all(|directive| understood(directive.trim()));
    // The filter is built again where it is installed: it can be neither cloned nor compared.
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if words => Ok(text.to_owned()),
        _ => {
            Err("off, error, warn, info, debug, trace or a list such as info,sterna::serve=debug is needed".to_owned())
        }
    }
}

/// The variant that was asked for, if one was. bitnet.cpp's kernel families are no variants: `i2_s` is what every
/// variant computes, and its table-driven ones do not exist here.
pub(super) fn kernel(name: String, warnings: &mut Vec<String>) -> Option<String> {
    match name.as_str() {
        "auto" | "i2_s" => None,
        "tl1" | "tl2" => {
            warnings.push(format!(
                "there is no kernel family {name} here: using the best I2_S kernel of this CPU"
            ));
            None
        }
        _ => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_are_levels_or_name_modules() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,sterna::serve=debug",
            "sterna",
            "warn,hyper=error",
        ] {
            assert_eq!(log_level(good).as_deref(), Ok(good));
        }
        for bad in ["verbose", "warning", "info,loud", "a=b=c", "sterna=loud", "7", ""] {
            assert!(log_level(bad).unwrap_err().contains("debug, trace"), "{bad}");
        }
    }

    #[test]
    fn cors_takes_a_star_alone_or_origins() {
        for good in ["*", "https://a.example", "http://localhost:3000, https://b.example"] {
            assert!(cors_origin(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*, http://a",
            ",",
            "http://a b",
            "::bad",
            "https://",
            "https://a/path",
        ] {
            assert!(cors_origin(bad).is_err(), "{bad}");
        }
    }
}
