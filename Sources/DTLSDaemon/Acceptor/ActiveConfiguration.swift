import LinuxSystem

/// A configuration with everything that was opened for it.
final class ActiveConfiguration {
    let configuration: Configuration
    let setup: WorkerSetup
    /// The watch for the files of OCSP responses; `nil` when there are none, or when they cannot be watched.
    var watcher: FileWatcher?

    init(_ configuration: Configuration, _ setup: WorkerSetup, watcher: FileWatcher?) {
        self.configuration = configuration
        self.setup = setup
        self.watcher = watcher
    }
}
