// The two-task server of the reference: this process accepts clients, two others serve them.
// Usage: MultitaskServer [port], in a folder with cert.pem and cert.key.
import DTLSKit

// In the process of a task, this does what the task is for, and does not return.
try DtlsTask.run(["task": runTask])

// Two Task Server.
var next = 0
let task = [try DtlsTask("task"), try DtlsTask("task")]

for one in task {
    one.onExit { one, ending in
        print("Task", one.pid, ending)
        do { try one.restart() } catch { print("Task cannot be started again:", error) }
    }
}

let option = DtlsServerOption(
    name: "DTLS-Server1",
    cert: try Dtls.readString("./cert.pem"),
    key: try Dtls.readString("./cert.key")
)

let saddr = try Dtls.sockaddr(Dtls.INADDR_ANY, CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2049)
let server = try Dtls.createServer(option, saddr)
print("Listening on:", try server.sockName())

server.accept { client, remoteAddr in
    print("New client:", remoteAddr, "for task", task[next].pid)
    // The file descriptor is passed to other tasks and will be closed by other tasks.
    do { try task[next].send(["sockFd": .sockFd(client.sockFd)]) } catch { print("Client lost:", remoteAddr, error) }
    // MUST Call flyAway()
    client.flyAway()
    next += 1
    if next > 1 {
        next = 0
    }
}

while true {
    try iosched.poll()
}
