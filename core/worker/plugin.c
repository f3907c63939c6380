// Loads handler plugins: shared objects that export `dtask_plugin`.
//
// A plugin runs with the worker's rights, so its file must not be writable by
// others, nor the folder it lies in (a sticky one is good enough, as for
// /tmp, if the file is its owner's). It stays loaded as long as the process:
// its handlers may still be on some stack when the worker is freed.
#include "worker/worker.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HANDLERS_MAX = 10000 };

static bool owner_is_trusted(uid_t owner) {
    return owner == 0 || owner == geteuid();
}

// `path` is resolved: no link on it can be turned elsewhere by others.
static dtask_err check_file(const char *path, const struct stat *st) {
    if (!S_ISREG(st->st_mode)) return dti_fail(DTASK_EARGS, "The plugin %s is no regular file.", path);
    if ((st->st_mode & (S_IWGRP | S_IWOTH)) || !owner_is_trusted(st->st_uid))
        return dti_fail(DTASK_EARGS, "The plugin %s can be written by others: chmod go-w it, or build it as your own.", path);
    char folder[PATH_MAX];
    struct stat in;
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    slash[slash == folder] = 0;
    if (stat(folder, &in)) return dti_fail(DTASK_EARGS, "The folder of the plugin %s cannot be looked at: %s.", path, strerror(errno));
    if (((in.st_mode & (S_IWGRP | S_IWOTH)) && !(in.st_mode & S_ISVTX)) || !owner_is_trusted(in.st_uid))
        return dti_fail(DTASK_EARGS, "The folder of the plugin %s can be written by others: chmod go-w it.", path);
    return DTASK_OK;
}

// A plugin need not be linked against the library: this makes its names
// visible, also where it was loaded for one module only, as Python does.
static void show_library(void) {
    Dl_info self;
    if (dladdr((void *)dtask_abi, &self) && self.dli_fname) dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
}

// Checked first, then loaded by name, so that debuggers and sanitizers find
// it; and seen to be the same file still.
static dtask_err open_checked(const char *name, char path[PATH_MAX], void **out) {
    if (!realpath(name, path)) return dti_fail(DTASK_EARGS, "The plugin %s cannot be opened: %s.", name, strerror(errno));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return dti_fail(DTASK_EARGS, "The plugin %s cannot be opened: %s.", path, strerror(errno));
    struct stat st, by_name;
    dtask_err err = fstat(fd, &st) ? dti_fail(DTASK_EARGS, "The plugin %s cannot be looked at: %s.", path, strerror(errno)) : check_file(path, &st);
    if (!err) {
        show_library();
        void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!lib) err = dti_fail(DTASK_EARGS, "The plugin %s cannot be loaded: %.600s.", path, dlerror());
        else if (stat(path, &by_name) || by_name.st_dev != st.st_dev || by_name.st_ino != st.st_ino) {
            dlclose(lib);
            err = dti_fail(DTASK_EARGS, "The plugin %s was exchanged while it was loaded: try again.", path);
        } else *out = lib;
    }
    close(fd);
    return err;
}

static dtask_err check_plugin(const char *path, const dtask_plugin_v1 *plugin) {
    if (!plugin) return dti_fail(DTASK_EARGS, "%s is no plugin: it exports no dtask_plugin (see DTASK_PLUGIN in dynatask.h).", path);
    if (plugin->abi != DTASK_ABI)
        return dti_fail(DTASK_EVERSION, "The plugin %s is of ABI %u, this library of ABI %d: build it against this dynatask.h.", path,
            plugin->abi, DTASK_ABI);
    if (plugin->size < sizeof *plugin || !plugin->name || !plugin->handlers)
        return dti_fail(DTASK_EARGS, "The plugin %s is malformed: define it with DTASK_PLUGIN.", path);
    size_t n = 0;
    for (; plugin->handlers[n].type; n++) {
        if (n == HANDLERS_MAX) return dti_fail(DTASK_EARGS, "The plugin %s lists more than %d handlers: end the list with a NULL type.", path, HANDLERS_MAX);
        if (!plugin->handlers[n].fn) return dti_fail(DTASK_EARGS, "The plugin %s has no function for %.200s.", path, plugin->handlers[n].type);
    }
    return n ? DTASK_OK : dti_fail(DTASK_EARGS, "The plugin %s has no handlers.", path);
}

// That each handler can be added to a worker that has none of its name.
static dtask_err check_handlers(const dtask_plugin_v1 *plugin) {
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    for (const dtask_handler_v1 *h = plugin->handlers; !err && h->type; h++) {
        dtask_b_type type = {.name = h->type, .version = 1, .signature = h->signature};
        dti_hello_type published;
        err = dti_handler_name_check(h->type);
        if (!err) err = dti_type_publish(NULL, &mem, &type, &published);
        for (const dtask_handler_v1 *o = plugin->handlers; !err && o < h; o++)
            if (!strcmp(o->type, h->type)) err = dti_fail(DTASK_ECONFLICT, "The plugin %s has two handlers of the type %s.", plugin->name, h->type);
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dtask_b_plugin(const char *name, const dtask_plugin_v1 **out) {
    char path[PATH_MAX];
    void *lib = NULL;
    dtask_err err = open_checked(name, path, &lib);
    if (err) return err;
    const dtask_plugin_v1 *plugin = dlsym(lib, "dtask_plugin");
    if ((err = check_plugin(path, plugin)) || (err = check_handlers(plugin))) {
        dlclose(lib);
        return err;
    }
    // From here it stays loaded: handlers that are added point into it.
    *out = plugin;
    return DTASK_OK;
}

dtask_err dtask_worker_load(dtask_worker *worker, const char *name) {
    const dtask_plugin_v1 *plugin;
    dtask_err err = dti_worker_check(worker);
    if (!err && !name) err = dti_fail(DTASK_EARGS, "dtask_worker_load needs a file.");
    if (!err) err = dtask_b_plugin(name, &plugin);
    if (err) return err;
    for (const dtask_handler_v1 *h = plugin->handlers; !err && h->type; h++)
        err = dtask_worker_add(worker, h->type, h->signature, h->fn, NULL);
    return err;
}
