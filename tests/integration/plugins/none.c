// A shared object that is no plugin.
int a_number_of_mine = 1;
