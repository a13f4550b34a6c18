import Glibc
import LinuxSystem

extension TableReader<MainSection> {
    /// The user that dtlsd is to run as.
    func account(_ name: String?, group: UInt32?) -> UserAccount? {
        guard let name else {
            if group != nil { report(\.group, "it has no effect without user; expected both, or none") }
            return nil
        }
        guard let account = UserAccount(named: name, group: group) else {
            let expected = field(\.user).expected
            report(\.user, "there is no user \(ReadContext.quoted(name)); expected \(expected)")
            return nil
        }
        return account
    }

    /// Warns of files that root has read, and that this user cannot read: a reload would fail for them.
    func warnOfFilesClosed(to account: UserAccount?) {
        guard let account, account.user != 0, UserAccount.current == 0 else { return }
        if let error = account.errorOfReading(context.file) {
            warn(
                \.user,
                "the user \(ReadContext.quoted(account.name)) cannot read this file (\(error.reason)), so that a reload will"
                    + " fail; expected a file that it can read")
        }
        for file in context.filesRead {
            guard let error = account.errorOfReading(file.path) else { continue }
            context.warn(
                file.key, element: file.element,
                "the user \(ReadContext.quoted(account.name)) cannot read \(ReadContext.quoted(file.path))"
                    + " (\(error.reason)), so that a reload will fail; expected a file that it can read, such as one of its"
                    + " group with mode 640, in folders that it can enter")
        }
    }
}
