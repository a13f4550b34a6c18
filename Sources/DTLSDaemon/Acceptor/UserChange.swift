import LinuxSystem

/// Whether the main process becomes the user of a configuration, and when. It has no effect itself.
enum UserChange: Equatable {
    /// It is that user already, or there is none in the configuration.
    case none
    case become(UserAccount)
    /// Only root can become another user, and its workers have to be started after that.
    case refused(String)

    /// - Parameters:
    ///   - account: that of the configuration.
    ///   - current: the user that this process runs as.
    ///   - isFirst: whether no configuration was active before.
    init(to account: UserAccount?, from current: UInt32, isFirst: Bool) {
        guard let account, account.user != current else {
            self = .none
            return
        }
        if current != 0 {
            self = .refused(
                "dtlsd runs as the user \(current), and only root can become \"\(account.name)\"; expected to be started by"
                    + " root, or no key user")
        } else if !isFirst {
            self = .refused(
                "dtlsd runs as root, and becomes \"\(account.name)\" at a start alone; expected a restart")
        } else {
            self = .become(account)
        }
    }
}

/// The configuration names a user that this process cannot become.
struct WrongUser: Error, CustomStringConvertible {
    let description: String
}
