import Glibc

/// The table `[control]`: where and by whom the daemon can be asked and told things while it runs.
struct ControlConfiguration: Codable, Equatable, Sendable {
    /// The absolute path of the Unix socket; empty: there is none. `nil`: in the folder that the service manager has made
    /// for the daemon, or in ``standardFolder``, where that is there.
    var path: String?
    /// The permissions of the socket's file: who may write to it may connect.
    var mode: UInt32 = 0o660
    /// The group of the socket's file; `nil`: the daemon's.
    var group: UInt32?

    static let standardFolder = "/run/dtlsd"
    static let fileName = "control.sock"

    /// The path that this process has to open; `nil`: none.
    var socketPath: String? {
        if let path { return path.isEmpty ? nil : path }
        let folders = getenv("RUNTIME_DIRECTORY").map { String(cString: $0) }?.split(separator: ":") ?? []
        let folder = folders.first.map(String.init) ?? Self.standardFolder
        return access(folder, W_OK | X_OK) == 0 ? "\(folder)/\(Self.fileName)" : nil
    }
}
