// libmicrohttpd; those of its functions that Swift cannot call, since they take a variable number of arguments; and its
// constants, which Swift knows by names that depend on the attributes of each version's enumerations.
#ifndef CMICROHTTPD_SHIM_H
#define CMICROHTTPD_SHIM_H
#include <microhttpd.h>

static const enum MHD_Result cmicrohttpd_yes = MHD_YES;
static const enum MHD_Result cmicrohttpd_no = MHD_NO;
static const enum MHD_ValueKind cmicrohttpd_header_kind = MHD_HEADER_KIND;
static const enum MHD_ResponseMemoryMode cmicrohttpd_copy = MHD_RESPMEM_MUST_COPY;
static const enum MHD_ConnectionNotificationCode cmicrohttpd_started = MHD_CONNECTION_NOTIFY_STARTED;

// MHD_start_daemon() for a loop of the caller's own, on a listening socket.
static inline struct MHD_Daemon *cmicrohttpd_start(
    MHD_socket listening, size_t connection_memory, unsigned int connections, unsigned int idle_seconds,
    MHD_AccessHandlerCallback handler, MHD_NotifyConnectionCallback connection_changed,
    MHD_RequestCompletedCallback request_ended, void *context)
{
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handler, context,
        MHD_OPTION_LISTEN_SOCKET, listening,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, connection_memory,
        MHD_OPTION_CONNECTION_LIMIT, connections,
        MHD_OPTION_CONNECTION_TIMEOUT, idle_seconds,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, context,
        MHD_OPTION_NOTIFY_COMPLETED, request_ended, context,
        MHD_OPTION_END);
}

// The epoll descriptor that is readable when MHD_run() has something to do; -1 where there is none.
static inline int cmicrohttpd_epoll_descriptor(struct MHD_Daemon *daemon)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD);
    return info == NULL ? -1 : info->epoll_fd;
}

// The socket of a connection; -1 where there is none.
static inline int cmicrohttpd_socket(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info == NULL ? -1 : info->connect_fd;
}
#endif
