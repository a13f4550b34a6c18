import LinuxSystem
import Logging
import Primitives

/// Asks for a reload when files have changed that the configuration names (`watch = true`).
///
/// The loader has set the watches up before it read the files, so no change is missed. Each loader sets up new ones, also one
/// that has found a file half-written: symbolic links may lead elsewhere by now.
final class CredentialWatch: TimerTarget, EventHandler {
    private let loop: EventLoop
    private let logger: Logger
    private var watcher: FileWatcher?
    private var registration: EventLoop.Registration?
    private var pacing = ReloadPacing()
    /// Is to do what SIGHUP does.
    var onChange: () -> Void = {}

    init(loop: EventLoop, logger: Logger) {
        self.loop = loop
        self.logger = logger
        super.init()
    }

    /// Goes on with the watches of another loader.
    /// - Parameter watcher: `nil` where no file is watched any more.
    func watch(with watcher: FileWatcher?) {
        if let old = self.watcher, let registration { loop.remove(old.descriptor, registration) }
        (self.watcher, registration) = (watcher, nil)
        guard let watcher else { return }
        do throws(SystemError) {
            registration = try loop.add(watcher.descriptor, .readable, self)
        } catch {
            logger.log(
                .internalError,
                "files cannot be watched, and are read again with the next reload alone: \(error)")
        }
    }

    func ready(_ events: EventLoop.Events) {
        guard (try? watcher?.takeChanges()) == true else { return }
        pacing.noteChange(now: loop.now)
        if let due = pacing.due { loop.timers.arm(self, at: due) }
    }

    override func timerFired(now: Instant) {
        guard let due = pacing.due else { return }
        guard due <= now else { return loop.timers.arm(self, at: due) }
        pacing.begin(now: now)
        logger.log(.filesChanged, "files that the configuration names have changed: they are read again")
        onChange()
    }
}
