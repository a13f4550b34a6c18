import CLinux
import Glibc

/// A user of this machine that a process can become, with its groups.
public struct UserAccount: Codable, Hashable, Sendable {
    /// As it was asked for.
    public let name: String
    public let user: UInt32
    public let group: UInt32
    /// All groups that it is a member of, ``group`` included.
    public let groups: [UInt32]

    public init(name: String, user: UInt32, group: UInt32, groups: [UInt32]) {
        self.name = name
        self.user = user
        self.group = group
        self.groups = groups
    }

    /// A user by name or number. It may ask the network (nsswitch.conf(5)), and so may block.
    /// - Parameter group: in place of the user's own.
    /// - Returns: `nil` where there is no such user, and for a number that is no user's where no group is given.
    public init?(named name: String, group: UInt32? = nil) {
        var entry = passwd()
        var found: UnsafeMutablePointer<passwd>?
        var buffer = [CChar](repeating: 0, count: 65_536)
        if getpwnam_r(name, &entry, &buffer, buffer.count, &found) != 0 || found == nil, let number = UInt32(name),
            getpwuid_r(number, &entry, &buffer, buffer.count, &found) != 0 || found == nil
        {
            guard let group else { return nil }
            self.init(name: name, user: number, group: group, groups: [group])
            return
        }
        guard found != nil, let own = entry.pw_name else { return nil }
        let first = group ?? entry.pw_gid
        // NGROUPS_MAX
        var count: Int32 = 65_536
        var groups = [gid_t](repeating: 0, count: Int(count))
        guard getgrouplist(own, first, &groups, &count) >= 0 else { return nil }
        self.init(name: name, user: entry.pw_uid, group: first, groups: Array(groups.prefix(Int(count))))
    }

    /// Has this process be this user for good. It must be root, and have one thread.
    /// - Parameter keepsLowPorts: whether it, and what it starts, may still bind ports below 1024.
    public func become(keepsLowPorts: Bool) throws(SystemError) {
        let code = cl_become_user(user, group, groups, groups.count, keepsLowPorts ? 1 : 0)
        guard code == 0 else { throw SystemError("setuid", name, errno: code) }
    }

    /// Why this user cannot read a file; `nil` where it can. This process must be root.
    public func errorOfReading(_ path: String) -> SystemError? {
        let code = cl_error_of_reading_as(path, user, group, groups, groups.count)
        return code == 0 ? nil : SystemError("open", path, errno: code)
    }

    /// The user that this process runs as.
    public static var current: UInt32 { geteuid() }
}
