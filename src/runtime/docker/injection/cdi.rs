//! Which GPUs the CDI specifications of a node name. Reads just that, from YAML and JSON alike: dockerd reads the rest.

use super::driver::{names, text};
use std::path::Path;

/// The kind of device that `nvidia-ctk cdi generate` writes.
pub(super) const KIND: &str = "nvidia.com/gpu";

/// Devices of [`KIND`] in the specifications of a folder.
pub(super) fn devices(dir: &Path) -> Vec<String> {
    let is_spec = |name: &String| [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
    names(dir)
        .into_iter()
        .filter(is_spec)
        .filter_map(|name| text(&dir.join(name)))
        .flat_map(|spec| listed(&spec))
        .collect()
}

fn listed(spec: &str) -> Vec<String> {
    if let Ok(spec) = serde_json::from_str::<serde_json::Value>(spec) {
        let devices = spec["devices"].as_array().filter(|_| spec["kind"] == KIND);
        return devices
            .into_iter()
            .flatten()
            .filter_map(|device| device["name"].as_str().map(str::to_owned))
            .collect();
    }
    let value = |line: &str, key: &str| {
        let line = line.trim_start().trim_start_matches("- ").trim_start();
        let value = line.strip_prefix(key)?.strip_prefix(':')?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    if !spec.lines().any(|line| line.starts_with("kind") && value(line, "kind").as_deref() == Some(KIND)) {
        return Vec::new();
    }
    // In `devices`, a list at the top, `name` is a key of each entry itself: as deep as the first one after a dash.
    let block = spec.lines().skip_while(|line| !line.starts_with("devices:")).skip(1);
    let block: Vec<&str> = block.take_while(|line| line.starts_with([' ', '-']) || line.trim().is_empty()).collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let entry = block.iter().find(|line| line.trim_start().starts_with('-')).map_or(0, |line| indent(line));
    let own = |line: &&&str| match line.trim_start().strip_prefix('-') {
        Some(_) => indent(line) == entry,
        None => indent(line) == entry + 2,
    };
    block.iter().filter(own).filter_map(|line| value(line, "name")).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_both_forms() {
        let yaml = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- containerEdits:\n    deviceNodes:\n    \
            - path: /dev/nvidia0\n      name: not-this\n  name: \"0\"\n- name: GPU-1\n  containerEdits: {}\n- name: all\n\
            containerEdits:\n  name: nor-this\n";
        assert_eq!(listed(yaml), ["0", "GPU-1", "all"]);
        let json = r#"{"kind": "nvidia.com/gpu", "devices": [{"name": "0"}, {"name": "1:0"}, {}]}"#;
        assert_eq!(listed(json), ["0", "1:0"]);
        assert!(listed(&yaml.replace("nvidia.com/gpu", "vendor.com/net")).is_empty());
        assert!(listed("{").is_empty() && listed("").is_empty());
    }
}
