use super::infiniband::{LinkLayer, PhysState, PortState};
use super::pci::{PciKind, PciLink, nvidia_functions};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

/// A folder in place of `/`.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, folder: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.path().join(folder).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
    }

    fn host(&self, limit_ms: u64) -> Host {
        Host::new(self.path().to_owned(), Duration::from_millis(limit_ms))
    }

    /// As the kernel has it: a link from the bus to the device.
    fn function(&self, address: &str, files: &[(&str, &str)]) {
        let device = format!("sys/devices/pci0000:00/{address}");
        self.put(&device, files);
        let bus = self.path().join("sys/bus/pci/devices");
        fs::create_dir_all(&bus).unwrap();
        symlink(self.path().join(&device), bus.join(address)).unwrap();
    }
}

#[test]
fn nvidia_functions_are_told_with_their_links() {
    let root = Root::new();
    assert_eq!(nvidia_functions(root.path()).unwrap(), [], "a machine without PCI");
    let links = |speed, width, max_speed, max_width| {
        [
            ("current_link_speed", speed),
            ("current_link_width", width),
            ("max_link_speed", max_speed),
            ("max_link_width", max_width),
        ]
    };
    let id = [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")];
    root.function("0000:1b:00.0", &[&id[..], &links("2.5 GT/s PCIe", "8", "32.0 GT/s PCIe", "16")].concat());
    let driver = root.path().join("sys/bus/pci/drivers/nvidia");
    fs::create_dir_all(&driver).unwrap();
    symlink(driver, root.path().join("sys/devices/pci0000:00/0000:1b:00.0/driver")).unwrap();
    // It does not answer.
    root.function("0000:3d:00.0", &[&id[..], &links("Unknown", "255", "8 GT/s", "16")].concat());
    root.function("0000:07:00.0", &[("vendor", "0x10de"), ("device", "0x22a3"), ("class", "0x068000")]);
    root.function("0000:1b:00.1", &[("vendor", "0x10de"), ("device", "0x10f9"), ("class", "0x040300")]);
    root.function("0000:18:00.0", &[("vendor", "0x15b3"), ("device", "0x1021"), ("class", "0x020700")]);
    root.function("0000:99:00.0", &[("vendor", "0x10de")]);
    let found = nvidia_functions(root.path()).unwrap();
    let kinds: Vec<(&str, PciKind)> = found.iter().map(|of| (of.address.as_str(), of.kind())).collect();
    let expected = [
        ("0000:07:00.0", PciKind::NvSwitch),
        ("0000:1b:00.0", PciKind::Gpu),
        ("0000:1b:00.1", PciKind::Other),
        ("0000:3d:00.0", PciKind::Gpu),
    ];
    assert_eq!(kinds, expected);
    let gpu = &found[1];
    assert_eq!(
        (gpu.vendor, gpu.device, gpu.class, gpu.driver.as_deref()),
        (0x10de, 0x2330, 0x03_0200, Some("nvidia"))
    );
    assert_eq!(gpu.link, Some(PciLink { speed_mts: 2_500, width: 8 }));
    let max = gpu.max_link.unwrap();
    assert_eq!((max, max.generation()), (PciLink { speed_mts: 32_000, width: 16 }, Some(5)));
    let silent = &found[3];
    assert_eq!((silent.link, silent.driver.as_deref()), (None, None));
    assert_eq!(silent.max_link, Some(PciLink { speed_mts: 8_000, width: 16 }));
}

#[tokio::test]
async fn ports_are_told_with_state_rate_and_counters() {
    let root = Root::new();
    let host = root.host(60_000);
    assert_eq!(host.infiniband().await, Ok(Vec::new()), "a machine without InfiniBand");
    let device = "sys/class/infiniband/mlx5_0";
    root.function("0000:18:00.0", &[("vendor", "0x15b3")]);
    root.put(device, &[("fw_ver", "28.39.1002"), ("hca_type", "MT4129"), ("ports/nonsense/state", "4: ACTIVE")]);
    symlink(root.path().join("sys/devices/pci0000:00/0000:18:00.0"), root.path().join(device).join("device"))
        .unwrap();
    let port = format!("{device}/ports/1");
    root.put(&port, &[("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("rate", "400 Gb/sec (4X NDR)")]);
    root.put(&port, &[("link_layer", "InfiniBand"), ("counters/link_downed", "3"), ("counters/symbol_error", "17")]);
    root.put(&port, &[("counters/port_xmit_wait", "N/A (no PMA)"), ("hw_counters/rnr_nak_retry_err", "5")]);
    let port = format!("{device}/ports/2");
    root.put(&port, &[("state", "1: DOWN"), ("phys_state", "3: Disabled"), ("rate", "2.5 Gb/sec (1X SDR)")]);
    root.put(&port, &[("link_layer", "Ethernet")]);
    root.put("sys/class/infiniband/irdma1/ports/1", &[("state", "9: NEW"), ("phys_state", ""), ("rate", "fast")]);
    let found = host.infiniband().await.unwrap();
    assert_eq!(found.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["irdma1", "mlx5_0"]);
    let strange = &found[0].ports[0];
    assert_eq!((strange.state, strange.phys_state, strange.rate_mbps), (Some(PortState::Other(9)), None, None));
    assert_eq!((strange.link_layer, strange.link_downed()), (None, None));
    let device = &found[1];
    let facts = [&device.pci, &device.firmware, &device.hca_type].map(|fact| fact.as_deref().unwrap());
    assert_eq!(facts, ["0000:18:00.0", "28.39.1002", "MT4129"]);
    let [up, down] = device.ports.as_slice() else { panic!("{device:?}") };
    assert_eq!((up.number, up.state, up.phys_state), (1, Some(PortState::Active), Some(PhysState::LinkUp)));
    assert_eq!(
        (up.rate_mbps, up.link_layer, up.link_downed()),
        (Some(400_000), Some(LinkLayer::Infiniband), Some(3))
    );
    let counters = [("link_downed", 3), ("symbol_error", 17), ("rnr_nak_retry_err", 5)];
    assert_eq!(up.counters, BTreeMap::from(counters.map(|(name, value)| (name.to_owned(), value))));
    assert_eq!((down.number, down.state, down.phys_state), (2, Some(PortState::Down), Some(PhysState::Disabled)));
    assert_eq!((down.rate_mbps, down.link_layer), (Some(2_500), Some(LinkLayer::Ethernet)));
}

#[tokio::test]
async fn a_look_that_hangs_is_given_up_and_no_other_is_begun_until_it_ends() {
    let root = Root::new();
    root.function("0000:1b:00.0", &[("device", "0x2330"), ("class", "0x030200")]);
    // Opening a pipe that nobody writes to hangs, as a device that does not answer.
    let vendor = root.path().join("sys/devices/pci0000:00/0000:1b:00.0/vendor");
    nix::unistd::mkfifo(&vendor, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let host = root.host(30);
    let what = "the PCI functions of NVIDIA";
    assert_eq!(host.nvidia_functions().await, Err(LookError::Late { what, limit_ms: 30 }));
    assert_eq!(host.nvidia_functions().await, Err(LookError::Hangs { what }));
    assert!(!matches!(host.infiniband().await, Err(LookError::Hangs { .. })), "the others go on");
    fs::write(&vendor, "0x10de\n").unwrap();
    fs::remove_file(&vendor).unwrap();
    fs::write(&vendor, "0x10de\n").unwrap();
    let patient = Host { limit: Duration::from_secs(60), ..host };
    let found = loop {
        match patient.nvidia_functions().await {
            Err(LookError::Hangs { .. }) => tokio::task::yield_now().await,
            found => break found.unwrap(),
        }
    };
    assert_eq!(found.len(), 1);
}

#[test]
fn the_boot_is_told_and_what_is_strange_is_named() {
    let root = Root::new();
    let missing = Boot::read(root.path()).unwrap_err().to_string();
    assert!(missing.contains("proc/sys/kernel/random/boot_id"), "{missing}");
    root.put("proc", &[("sys/kernel/random/boot_id", "3f2a"), ("uptime", "350735.4 1.0")]);
    assert_eq!(Boot::read(root.path()).unwrap(), Boot { boot_id: "3f2a".to_owned(), uptime_ms: 350_735_400 });
    root.put("proc", &[("uptime", "soon")]);
    let strange = Boot::read(root.path()).unwrap_err().to_string();
    assert!(strange.contains("proc/uptime") && strange.contains("\"soon\""), "{strange}");
    let own = Boot::read(Path::new("/")).unwrap();
    assert!(own.uptime_ms > 0 && own.boot_id.len() == 36, "{own:?}");
}
