/* A shared object, but no plugin. */
int no_plugin = 1;
