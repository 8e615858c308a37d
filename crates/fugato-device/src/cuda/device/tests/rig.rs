//! A device over one that is not there, and what a test does with it.

use super::*;

/// Has a test that fails not wait for what it holds.
struct Freed(Fake);

impl Drop for Freed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lose();
        }
    }
}

/// A device with two lanes in each partition, what it reports, and the host's time.
pub(super) struct Rig {
    // Dropped before the device, which waits for the end of what it was given.
    _freed: Freed,
    pub(super) fake: Fake,
    pub(super) device: GpuDevice<Fake>,
    pub(super) events: Receiver<DeviceEvent>,
    pub(super) time: Arc<AtomicU64>,
}

impl Rig {
    pub(super) fn new(memory: usize) -> Self {
        Self::making(memory, false)
    }

    /// One that may run groups of a plan side by side.
    pub(super) fn making(memory: usize, side_by_side: bool) -> Self {
        Self::over(&SmLayout::new(132, vec![8; 16]), memory, side_by_side)
    }

    /// One that is divided so.
    pub(super) fn over(layout: &SmLayout, memory: usize, side_by_side: bool) -> Self {
        let fake = Fake::new(memory);
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let time = Arc::new(AtomicU64::new(0));
        let ticks = Arc::clone(&time);
        let device = GpuDevice::new(Parts {
            backend: fake.clone(),
            spec: layout.spec(DeviceId(0), "fake", &LANES, &LANES),
            // Each look at it takes a microsecond.
            clock: Arc::new(move || {
                Timestamp::from_nanos(ticks.fetch_add(1_000, Ordering::SeqCst))
            }),
            sink: Arc::new(move |event| {
                let sender = sender.lock().unwrap();
                // A test that is over hears nothing.
                let _ = sender.send(event);
            }),
            hang: HANG,
            side_by_side,
        });
        Self {
            _freed: Freed(fake.clone()),
            fake,
            device,
            events,
            time,
        }
    }

    /// With models 0, 1, .. loaded.
    pub(super) fn with(models: Vec<FakeFacts>) -> Self {
        let rig = Self::new(ENOUGH);
        for (id, facts) in (0..).zip(models) {
            rig.load(id, facts).unwrap();
        }
        rig
    }

    pub(super) fn load(&self, id: u32, facts: FakeFacts) -> Result<Loaded, LoadError> {
        self.load_cut(id, facts, None)
    }

    pub(super) fn load_cut(
        &self,
        id: u32,
        facts: FakeFacts,
        cuts: Option<Cuts>,
    ) -> Result<Loaded, LoadError> {
        let options = LoadOptions {
            cuts,
            ..LoadOptions::default()
        };
        self.load_as(id, facts, options)
    }

    /// With batches of up to 4.
    pub(super) fn load_as(
        &self,
        id: u32,
        facts: FakeFacts,
        options: LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let options = LoadOptions {
            max_batch: 4,
            ..options
        };
        self.device
            .load(ModelId(id), &FakeModel(Arc::new(facts)), &options)
    }

    pub(super) fn event(&self) -> DeviceEvent {
        self.events.recv_timeout(Duration::from_secs(120)).unwrap()
    }

    /// Runs a leg on an idle lane.
    pub(super) fn run(&self, work: LegWork) -> Result<TaskOutputs, RunError> {
        let task = work.start.task;
        self.device.start(work);
        assert!(matches!(self.event(), DeviceEvent::Started { task: of, .. } if of == task));
        let DeviceEvent::Finished {
            task: of, result, ..
        } = self.event()
        else {
            panic!("{task} ends");
        };
        assert_eq!(of, task);
        result
    }

    pub(super) fn pass(&self, time: Nanos) {
        self.time.fetch_add(time.as_nanos(), Ordering::SeqCst);
    }

    pub(super) fn partition(&self, atoms: AtomSet) -> PartitionId {
        let partitions = &self.device.spec().partitions;
        partitions
            .iter()
            .find(|part| part.atoms == atoms)
            .unwrap()
            .id
    }
}
