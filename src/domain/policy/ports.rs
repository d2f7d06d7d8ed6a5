//! Ports of a node that jobs may ask for by number.

use super::UserIds;
use crate::domain::quantity::DEFAULT_PORTS;
use std::fmt;
use std::ops::RangeInclusive;

/// The first that is not the system's.
const FIRST: u16 = 1024;

/// Which ports containers may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRules {
    /// Numbers and ranges; `None`: from 1024 on.
    pub fixed: Option<UserIds>,
    /// Wharf's own on this node: never a job's.
    pub own: Vec<u16>,
    /// What wharf gives to tasks that name no number.
    pub given: RangeInclusive<u16>,
}

impl Default for PortRules {
    fn default() -> Self {
        Self { fixed: None, own: Vec::new(), given: DEFAULT_PORTS }
    }
}

impl PortRules {
    pub fn allow(&self, port: u16) -> bool {
        let fixed = match &self.fixed {
            Some(ports) => ports.contains(port.into()),
            None => port >= FIRST,
        };
        (fixed || self.given.contains(&port)) && !self.own.contains(&port)
    }
}

impl fmt::Display for PortRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fixed {
            Some(ports) => write!(f, "{ports}")?,
            None => write!(f, "{FIRST}-65535")?,
        }
        for (at, port) in self.own.iter().enumerate() {
            let before = if at == 0 { ", but not wharf's own " } else { ", " };
            write!(f, "{before}{port}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_and_wharfs_own_are_for_no_job() {
        let usual = PortRules { own: vec![7600, 7601], ..PortRules::default() };
        for (port, allowed) in [(22, false), (1023, false), (1024, true), (7601, false), (8080, true), (65535, true)]
        {
            assert_eq!(usual.allow(port), allowed, "{port}");
        }
        assert_eq!(usual.to_string(), "1024-65535, but not wharf's own 7600, 7601");
        let some = PortRules { fixed: UserIds::parse(["80", "8000-8100"]).ok(), ..usual };
        for (port, allowed) in [(80, true), (8080, true), (9000, false), (15_000, true), (7600, false)] {
            assert_eq!(some.allow(port), allowed, "{port}");
        }
    }
}
